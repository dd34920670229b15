"""Sessions: stepped, watched, cancelled, dropped; and what is left of them."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest

import barman_snap
from barman_snap import Engine, Event
from barman_snap.events import Planned, StepBegun, StepDone
from conftest import Server, clean_slate, ids, slow_backup


def test_a_session_can_be_stepped(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    session = engine.backup(postgres.dsn, immediate_checkpoint=True)
    assert session.phase == "planned" and session.backup is None
    steps = []
    while (step := session.next_step()) is not None:
        steps.append(step)
    assert steps[0] == "start" and steps[-1] == "publish"
    assert session.phase == "published" and ids(engine) == [session.backup_id]
    assert session.backup is not None and session.backup.backup_id == session.backup_id
    assert repr(session) == f"Session(backup_id='{session.backup_id}', phase='published')"


def test_the_end_of_the_block_runs_what_is_left(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    with engine.backup(postgres.dsn, immediate_checkpoint=True) as session:
        assert session.next_step() == "start"
    assert session.phase == "published" and ids(engine) == [session.backup_id]


def test_an_exception_in_the_block_undoes_the_backup(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    session = engine.backup(postgres.dsn, immediate_checkpoint=True)
    with pytest.raises(ZeroDivisionError):
        with session:
            while session.phase != "snapshotting":
                session.next_step()
            _ = 1 / 0
    assert session.phase == "undone" and clean_slate(engine)


def test_past_the_dividing_line_an_exception_leaves_the_session_to_recover(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    session = engine.backup(postgres.dsn, immediate_checkpoint=True)
    with pytest.raises(ZeroDivisionError), pytest.warns(RuntimeWarning, match="was left finishing"):
        with session:
            while session.phase != "stopped":
                session.next_step()
            _ = 1 / 0
    (rescue,) = engine.recover(force=True)
    assert (rescue.action, rescue.ended) == ("go_forward", "published")
    assert ids(engine) == [session.backup_id]


def test_events_come_as_they_happen(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    heard: list[Event] = []
    with engine.backup(postgres.dsn, immediate_checkpoint=True, on_progress=heard.append) as session:
        seen = list(session.events())
    assert isinstance(heard[0], Planned) and heard[0].backup_id == session.backup_id
    assert heard[1:] == seen
    done = [event for event in seen if isinstance(event, StepDone)]
    assert done[-1].phase == "published" and session.phase == "published"
    begun = [event.step for event in seen if isinstance(event, StepBegun)]
    assert begun == [event.step for event in done]


def test_leaving_the_events_early_undoes_the_backup(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")
    session = engine.backup(postgres.dsn)
    for event in session.events():
        break
    assert session.phase == "undone" and clean_slate(engine)


def test_an_error_comes_out_of_the_events(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")
    with pytest.raises(barman_snap.CancelledError) as raised:
        with engine.backup(postgres.dsn) as session:
            for event in session.events():
                session.cancel()
    assert raised.value.context["ended"] == "undone" and clean_slate(engine)


def test_a_session_that_is_dropped_is_undone_and_warned_of(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    with pytest.warns(RuntimeWarning, match="was not run to its end; it is undone"):
        engine.backup(postgres.dsn, immediate_checkpoint=True)
        gc.collect()
    session = engine.backup(postgres.dsn, immediate_checkpoint=True)
    session.next_step()
    with pytest.warns(RuntimeWarning, match="it is undone"):
        del session
        gc.collect()
    assert clean_slate(engine)


def test_a_listener_that_raises_undoes_the_backup(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")

    def tell(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == "snapshot":
            raise KeyError("listener")

    with pytest.raises(KeyError, match="listener") as raised:
        engine.backup(postgres.dsn, immediate_checkpoint=True, on_progress=tell).run()
    assert isinstance(raised.value.__cause__, barman_snap.CancelledError)
    assert clean_slate(engine)


def test_a_listener_that_raises_at_once_undoes_the_backup_before_there_is_a_session(
    place: Path, postgres: Server
) -> None:
    engine = Engine(place / "catalog", "pg1")

    def tell(event: Event) -> None:
        raise KeyError(type(event).__name__)

    with pytest.raises(KeyError, match="Planned"):
        engine.backup(postgres.dsn, on_progress=tell)
    assert clean_slate(engine)


def test_the_engine_refuses_to_wait_within_itself(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    with pytest.raises(barman_snap.InvalidInputError, match="progress callback"):
        engine.backup(postgres.dsn, immediate_checkpoint=True, on_progress=lambda event: engine.list())
    assert clean_slate(engine)


def test_another_thread_looks_and_cancels_meanwhile(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")
    session = engine.backup(postgres.dsn)
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


def test_a_forked_child_does_not_touch_the_session_of_its_parent(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")
    session = engine.backup(postgres.dsn, immediate_checkpoint=True)
    session.next_step()
    child = os.fork()
    if child == 0:
        # Nothing of the test runner may run here.
        code = 1
        try:
            session.run()
        except barman_snap.PreconditionError:
            code = 0
        finally:
            # Its connection is that of the parent.
            del session, engine
            gc.collect()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session.run().backup_id == session.backup_id
