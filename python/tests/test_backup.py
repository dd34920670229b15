"""Backups of a real server: what they say, how they are restored, and how they are proven."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import barman_snap
from barman_snap import Engine, Event
from barman_snap.events import Checking, Made, Prepared, StepDone
from barman_snap.results import CatalogEntry, Proof
from conftest import EXAMPLES, Server, as_server_user, clean_slate, ids


def example(place: Path, name: str) -> Path:
    """An example where the user of the servers can read it."""
    copy = place / name
    copy.write_text((EXAMPLES / name).read_text())
    return copy


def test_a_backup_taken_from_python_becomes_a_server_again(
    place: Path, postgres: Server, restored: Server, python: Path
) -> None:
    postgres.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g")
    program = example(place, "backup_restore.py")
    ran = as_server_user(python, program, place / "catalog", "pg1", postgres.dsn, restored.data)
    assert "DONE" in ran.stdout and f"restored to {restored.data}" in ran.stdout
    assert "publish" in ran.stderr
    postgres.sql("DROP TABLE t")
    restored.start()
    assert restored.sql("SELECT count(*), sum(g) FROM t") == "10000|50005000"


def test_backups_of_several_servers_at_once(place: Path, postgres: Server, other: Server, python: Path) -> None:
    program = example(place, "async_backups.py")
    ran = as_server_user(python, program, place / "catalog", f"a={postgres.dsn}", f"b={other.dsn}")
    assert ran.stdout.count("in backup mode") == 2
    assert "a: publish" in ran.stderr and "b: publish" in ran.stderr


def test_a_backup_says_what_it_came_to(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1", wal_timeout=timedelta(seconds=30))
    events: list[Event] = []
    begun = datetime.now(timezone.utc)
    backup = engine.backup(postgres.dsn, name="nightly", immediate_checkpoint=True, on_progress=events.append).run()
    assert ids(engine) == [backup.backup_id]
    assert len(backup.snapshots) >= 1
    assert backup.backup_mode >= backup.cut > timedelta(0)
    assert backup.backup_id in repr(backup)
    steps = [event.step for event in events if isinstance(event, StepDone)]
    assert steps[0] == "start" and steps[-1] == "publish"

    entry = engine.show("nightly")
    assert (entry.status, entry.name, entry.begin_lsn, entry.pgdata) == (
        "DONE", "nightly", backup.begin_lsn, postgres.data
    )  # fmt: skip
    assert entry.begin_time is not None and entry.end_time is not None
    assert begun - timedelta(seconds=2) < entry.begin_time <= entry.end_time
    assert entry.to_dict()["copy_stats"], "what has no field is kept"
    assert CatalogEntry.from_dict(entry.to_dict()) == entry

    engine.keep(backup.backup_id, "full")
    assert engine.show("last").keep == "full"
    with pytest.raises(barman_snap.PreconditionError):
        engine.delete(backup.backup_id)
    engine.keep(backup.backup_id)
    would = engine.delete(backup.backup_id, dry_run=True)
    assert ids(engine) == [backup.backup_id]
    assert [each.backup_id for each in would.backups] == [backup.backup_id]
    assert {each.name for each in would.backups[0].snapshots} == set(backup.snapshots)
    assert engine.delete(backup.backup_id) == would
    assert clean_slate(engine)


def test_a_check_tells_each_thing_in_a_line(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    report = engine.check(postgres.dsn)
    # The server of these tests archives nothing.
    assert [line.name for line in report.failures] == ["archiving"] and report.failures[0].hint
    assert not report.ok and len(report.lines) > 5
    assert engine.check(postgres.dsn, wal_external=True).ok
    unreachable = engine.check(f"host={place}/nowhere")
    assert "PostgreSQL" in [line.name for line in unreachable.failures]


def test_a_restore_is_planned_before_anything_is_done(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    backup = engine.backup(postgres.dsn, immediate_checkpoint=True).run().backup_id
    target = place / "target"
    plan = engine.plan_restore(backup, target)
    assert plan.target == target and not target.exists() and plan.backup_id == backup
    assert plan.to_dict()["settings"]
    with pytest.raises(barman_snap.Error):
        engine.restore(backup, target, target_time=datetime(2001, 1, 1, tzinfo=timezone.utc))
    with pytest.raises(barman_snap.InvalidInputError, match="no zone"):
        engine.restore(backup, target, target_time=datetime(2001, 1, 1))
    with pytest.raises(barman_snap.InvalidInputError):
        engine.restore(backup, target, tablespaces={"none": place / "none"})
    assert not target.exists()
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(barman_snap.Error):
        engine.restore(backup, target)
    assert [each.name for each in target.iterdir()] == ["precious"]


def test_a_restore_tells_how_far_it_is_and_can_be_stopped(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    backup = engine.backup(postgres.dsn, immediate_checkpoint=True).run().backup_id
    events: list[Event] = []
    restored = engine.restore(backup, place / "one", on_progress=events.append)
    assert restored.target == place / "one" and restored.duration > timedelta(0)
    assert Made in map(type, events) and isinstance(events[-1], Prepared)

    def stop(event: Event) -> None:
        if isinstance(event, Made):
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough") as raised:
        engine.restore(backup, place / "two", on_progress=stop)
    assert isinstance(raised.value.__cause__, barman_snap.CancelledError)
    cancel = barman_snap.CancelToken()
    cancel.cancel()
    with pytest.raises(barman_snap.CancelledError):
        engine.restore(backup, place / "three", cancel=cancel)
    assert not (place / "two").exists() and not (place / "three").exists()


def test_verify_proves_a_backup(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    engine.backup(postgres.dsn, immediate_checkpoint=True).run()
    events: list[Event] = []
    proof = engine.verify(sql=["SELECT 1, NULL"], pg_bin_dir=postgres.bin_dir, on_progress=events.append)
    assert proof.passed, proof
    assert proof.sql[0].rows == (("1", None),)
    assert proof.started_at <= proof.finished_at and proof.started_at.tzinfo is not None
    assert any(isinstance(event, Checking) for event in events)
    assert engine.show("last").proofs == (proof,)
    assert Proof.from_dict(proof.to_dict()) == proof


def test_the_package_is_the_installed_one() -> None:
    place = Path(barman_snap.__file__).resolve()
    assert "site-packages" in place.parts, f"these tests are for the wheel, not for {place}"
    assert (place.parent / "py.typed").exists()


def test_help_reads_well(python: Path) -> None:
    ran = subprocess.run(
        [str(python), "-c", "import barman_snap; help(barman_snap.Engine); help(barman_snap)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "snapshot_provider: What takes the snapshots" in ran.stdout
    for name in barman_snap.__all__:
        value = getattr(barman_snap, name)
        assert name.startswith("__") or (value.__doc__ or "").strip(), f"{name} says nothing of itself"
        for member in vars(value) if isinstance(value, type) else ():
            if not member.startswith("_") and callable(getattr(value, member)):
                assert getattr(value, member).__doc__, f"{name}.{member} says nothing of itself"


def test_a_tablespace_can_be_left_out(place: Path, postgres: Server) -> None:
    location = place / "scratch"
    as_server_user("mkdir", location)
    postgres.sql(f"CREATE TABLESPACE scratch LOCATION '{location}'")
    engine = Engine(place / "catalog", "pg1", wal_timeout=timedelta(seconds=30))
    report = engine.check(postgres.dsn, exclude_tablespaces=["scartch"])
    assert [line.name for line in report.failures if "scartch" in line.detail] == ["left out"]
    assert all(line.name != "left out" for line in engine.check(postgres.dsn, exclude_tablespaces=["scratch"]).failures)
    backup = engine.backup(postgres.dsn, immediate_checkpoint=True, exclude_tablespaces=["scratch"]).run()
    assert len(backup.snapshots) == 1
    with pytest.raises(barman_snap.InvalidInputError, match="scartch"):
        engine.backup(postgres.dsn, exclude_tablespaces=["scartch"]).run()
