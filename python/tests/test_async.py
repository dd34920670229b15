"""The asynchronous twins: the event loop goes on, and a task that is cancelled leaves nothing."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from pathlib import Path

import pytest

import barman_snap
from barman_snap import Engine, Event
from barman_snap.events import StepBegun
from conftest import Server, clean_slate, ids, slow_backup


async def beats(into: list[float]) -> None:
    """Notes every ten milliseconds that the event loop is alive."""
    while True:
        into.append(time.monotonic())
        await asyncio.sleep(0.01)


def test_the_event_loop_goes_on_during_a_backup(place: Path, postgres: Server) -> None:
    async def main() -> None:
        engine = Engine(place / "catalog", "pg1")
        seen: list[float] = []
        heart = asyncio.create_task(beats(seen))
        threads: set[int] = set()
        backup = await engine.backup_async(
            postgres.dsn, immediate_checkpoint=True, on_progress=lambda event: threads.add(threading.get_ident())
        )
        heart.cancel()
        assert [each.backup_id for each in await engine.list_async()] == [backup.backup_id]
        assert threads == {threading.get_ident()}, "listeners are called on the event loop"
        gaps = [b - a for a, b in zip(seen, seen[1:])]
        assert len(gaps) > 10 and max(gaps) < 0.5, f"the loop stood still for {max(gaps)} s"

    asyncio.run(main())


def test_a_task_that_is_cancelled_undoes_the_backup(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(
            engine.backup_async(postgres.dsn, on_progress=lambda e: started.set() if isinstance(e, StepBegun) else None)
        )
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # It has waited for the end of the undo.
        assert clean_slate(engine)

    asyncio.run(main())


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.2])
def test_a_backup_that_runs_out_of_time_is_undone(place: Path, postgres: Server, delay: float) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.backup_async(postgres.dsn), delay)

    asyncio.run(main())
    assert clean_slate(engine)


def test_a_session_can_be_watched(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")

    async def main() -> None:
        events: list[Event] = []
        async with engine.backup_async(postgres.dsn, immediate_checkpoint=True) as session:
            async for event in session.events_async():
                events.append(event)
        assert session.backup is not None and session.phase == "published"
        assert events[0] == StepBegun("step_begun", step="start")
        async with engine.backup_async(postgres.dsn, immediate_checkpoint=True) as session:
            assert await session.next_step_async() == "start"
        assert session.phase == "published" and len(ids(engine)) == 2

    asyncio.run(main())


def test_an_exception_in_the_block_undoes_the_backup(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with engine.backup_async(postgres.dsn) as session:
                async for _ in session.events_async():
                    _ = 1 / 0
        assert clean_slate(engine)

    asyncio.run(main())


def test_a_listener_that_raises_undoes_the_backup(place: Path, postgres: Server) -> None:
    slow_backup(postgres)
    engine = Engine(place / "catalog", "pg1")

    def tell(event: Event) -> None:
        if isinstance(event, StepBegun):
            raise KeyError("listener")

    async def main() -> None:
        with pytest.raises(KeyError, match="listener") as raised:
            await engine.backup_async(postgres.dsn, on_progress=tell)
        assert isinstance(raised.value.__cause__, barman_snap.CancelledError)

    asyncio.run(main())
    assert clean_slate(engine)


def test_restore_and_verify_have_twins(place: Path, postgres: Server) -> None:
    engine = Engine(place / "catalog", "pg1")

    async def main() -> None:
        assert not (await engine.check_async(postgres.dsn)).ok
        backup, plan = await engine.backup_async(postgres.dsn, immediate_checkpoint=True), None
        plan = await engine.plan_restore_async(backup.backup_id, place / "one")
        restored, proof = await asyncio.gather(
            engine.restore_async(backup.backup_id, place / "one"),
            engine.verify_async(pg_bin_dir=postgres.bin_dir),
        )
        assert restored.target == plan.target == place / "one" and proof.passed
        with pytest.raises(barman_snap.NotFoundError):
            await engine.show_async("nightly")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.verify_async(pg_bin_dir=postgres.bin_dir), 0.2)

    asyncio.run(main())


def test_every_method_that_waits_has_a_twin_with_the_same_arguments() -> None:
    methods = {name for name, value in vars(Engine).items() if inspect.isfunction(value) and not name.startswith("_")}
    sync = {name for name in methods if not name.endswith("_async")}
    assert {f"{name}_async" for name in sync} == methods - sync
    for name in sync:
        one, two = (inspect.signature(getattr(Engine, each)) for each in (name, f"{name}_async"))
        assert list(one.parameters) == list(two.parameters), name
