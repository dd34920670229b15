"""Backups of a real server, and what becomes of them when something is in the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import barman_snap
from barman_snap import Engine
from conftest import Server, as_server_user

EXAMPLE = Path(__file__).parents[2] / "examples" / "python" / "backup_restore.py"


def ids(engine: Engine) -> list[str]:
    return [each["backup_id"] for each in engine.list()["backups_list"]]


def clean_slate(engine: Engine) -> bool:
    """Nothing is in the catalog, no session is open, and no snapshot belongs to nobody."""
    left = engine.gc()
    return not ids(engine) and not left["orphans"] and not left["open_sessions"]


def test_a_backup_taken_from_python_becomes_a_server_again(
    place: Path, postgres: Server, restored: Server, python: Path
) -> None:
    postgres.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g")
    example = place / "example.py"
    example.write_text(EXAMPLE.read_text())
    ran = as_server_user(python, example, place / "catalog", "pg1", postgres.dsn, restored.data)
    assert "DONE" in ran.stdout and f"restored to {restored.data}" in ran.stdout
    assert "publish" in ran.stderr
    postgres.sql("DROP TABLE t")
    restored.start()
    assert restored.sql("SELECT count(*), sum(g) FROM t") == "10000|50005000"


def test_a_backup_says_what_it_came_to(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1", wal_timeout=timedelta(seconds=30))
    events: list[dict[str, Any]] = []
    backup = engine.backup(postgres.dsn, name="nightly", immediate_checkpoint=True, on_progress=events.append)
    assert ids(engine) == [backup.id]
    assert len(backup.snapshots) >= 1
    assert backup.backup_mode >= backup.cut > timedelta(0)
    assert backup.id in repr(backup)
    assert engine.show("nightly")["status"] == "DONE"
    steps = [each["step"] for each in events if each["event"] == "step_done"]
    assert steps[0] == "start" and steps[-1] == "publish"
    engine.keep(backup.id, "full")
    assert engine.show("last")["keep"] == "full"
    with pytest.raises(barman_snap.PreconditionError):
        engine.delete(backup.id)
    engine.keep(backup.id)
    engine.delete(backup.id)
    assert clean_slate(engine)


def test_a_restore_is_planned_before_anything_is_done(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    backup = engine.backup(postgres.dsn, immediate_checkpoint=True)
    target = place / "target"
    plan = engine.restore(backup.id, target, dry_run=True)
    assert plan["target"] == str(target) and not target.exists()
    with pytest.raises(barman_snap.BarmanSnapError):
        engine.restore(backup.id, target, target_time=datetime(2001, 1, 1, tzinfo=timezone.utc))
    with pytest.raises(barman_snap.InvalidInputError):
        engine.restore(backup.id, target, tablespaces={"none": place / "none"})
    assert not target.exists()
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(barman_snap.BarmanSnapError):
        engine.restore(backup.id, target)
    assert [each.name for each in target.iterdir()] == ["precious"]


def test_a_session_can_be_stepped(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    session = engine.session(postgres.dsn, immediate_checkpoint=True)
    assert session.phase == "planned"
    steps = []
    while True:
        step = session.next_step()
        if step is None:
            break
        steps.append(step)
    assert steps[0] == "start" and steps[-1] == "publish"
    assert session.phase == "published" and ids(engine) == [session.backup_id]


def test_the_end_of_the_block_runs_what_is_left(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    with engine.session(postgres.dsn, immediate_checkpoint=True) as session:
        assert session.next_step() == "start"
    assert session.phase == "published" and ids(engine) == [session.backup_id]


def test_an_exception_in_the_block_undoes_the_backup(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    with pytest.raises(ZeroDivisionError):
        with engine.session(postgres.dsn, immediate_checkpoint=True) as session:
            while session.phase != "snapshotting":
                session.next_step()
            _ = 1 / 0
    assert session.phase == "undone" and clean_slate(engine)


def test_a_listener_that_raises_undoes_the_backup(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step_done" and event["step"] == "snapshot":
            raise KeyError("listener")

    with pytest.raises(KeyError, match="listener") as raised:
        engine.backup(postgres.dsn, immediate_checkpoint=True, on_progress=tell)
    assert isinstance(raised.value.__cause__, barman_snap.CancelledError)
    assert clean_slate(engine)


def test_the_engine_refuses_to_wait_within_itself(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    with pytest.raises(barman_snap.InvalidInputError, match="on_progress"):
        engine.backup(postgres.dsn, immediate_checkpoint=True, on_progress=lambda event: engine.list())
    assert clean_slate(engine)


def slow_backup(postgres: Server) -> None:
    """Makes the checkpoint of the next backup take a while, unless it is asked to be immediate."""
    postgres.sql("CREATE TABLE much AS SELECT repeat(md5(g::text), 10) FROM generate_series(1, 50000) g")


def test_ctrl_c_undoes_the_backup(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")
    interrupt = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as raised:
        engine.backup(postgres.dsn)
    assert time.monotonic() - begun < 20
    assert isinstance(raised.value.__cause__, barman_snap.CancelledError)
    assert clean_slate(engine)


def test_another_thread_runs_and_cancels_meanwhile(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")
    session = engine.session(postgres.dsn)
    seen: list[object] = []

    def meddle() -> None:
        time.sleep(0.5)
        seen.append(session.phase)
        try:
            session.next_step()
        except barman_snap.ConflictError as error:
            seen.append(error.kind)
        session.cancel()

    thread = threading.Thread(target=meddle)
    thread.start()
    with pytest.raises(barman_snap.CancelledError) as raised:
        session.run()
    thread.join()
    assert seen == ["planned", "conflict"]
    assert raised.value.context["ended"] == "undone"
    assert clean_slate(engine)


def test_verify_proves_a_backup(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    engine.backup(postgres.dsn, immediate_checkpoint=True)
    proof = engine.verify(sql=["SELECT 1"], pg_bin_dir=postgres.bin_dir)
    assert proof["passed"], proof
    assert len(engine.show("last")["proofs"]) == 1
