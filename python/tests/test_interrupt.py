"""Ctrl-C, at any moment, in a process of its own: it ends with KeyboardInterrupt, and leaves a clean slate."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from barman_snap import Engine
from conftest import Server, clean_slate, ids, slow_backup

PROGRAM = """
import sys
import barman_snap
engine = barman_snap.Engine(sys.argv[1], "pg1")
try:
    print("begun", flush=True)
    {take}
except KeyboardInterrupt as interrupt:
    print("interrupted", type(interrupt.__cause__).__name__, flush=True)
    sys.exit(130)
print("done", flush=True)
"""

WAYS = {
    "run": "engine.backup(sys.argv[2], immediate_checkpoint=True).run()",
    "with": """with engine.backup(sys.argv[2], immediate_checkpoint=True) as session:
        for event in session.events(): pass""",
    "steps": """with engine.backup(sys.argv[2], immediate_checkpoint=True) as session:
        while session.next_step(): pass""",
    "async": """import asyncio
    async def main():
        await engine.backup_async(sys.argv[2], immediate_checkpoint=True)
    asyncio.run(main())""",
}


def start(python: Path, place: Path, dsn: str, take: str) -> "subprocess.Popen[str]":
    command = [str(python), "-c", PROGRAM.format(take=take), str(place / "catalog"), dsn]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
    assert running.stdout is not None and running.stdout.readline() == "begun\n"
    return running


def state(engine: Engine) -> str:
    """``published`` or ``clean``, after `recover` has completed a session whose snapshots were safe already."""
    phases = [session.phase for session in engine.list().sessions if session.phase != "undone"]
    assert all(phase in ("stopped", "finishing") for phase in phases), f"only what is safe may be left open: {phases}"
    for rescue in engine.recover():
        assert rescue.ended in ("published", "undone") and rescue.error is None, rescue
    left = engine.gc()
    assert not left.orphans and not left.open_sessions and left.refusal is None, left
    return "published" if ids(engine) else "clean"


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_at_random_moments_leaves_a_clean_slate(
    place: Path, postgres: Server, python: Path, way: str
) -> None:
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    engine = Engine(place / "catalog", "pg1")
    begun = time.monotonic()
    whole = start(python, place, postgres.dsn, WAYS[way])
    assert whole.communicate()[0] == "done\n"
    lasts = time.monotonic() - begun
    engine.delete("last")
    seen = set()
    for _ in range(12):
        delay = moments.uniform(0, lasts)
        running = start(python, place, postgres.dsn, WAYS[way])
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        what = f"seed {seed}, after {delay:.3f} s: {out!r} {running.returncode}\n{err}"
        assert running.returncode in (0, 130, -signal.SIGINT), what
        assert "ResourceWarning" not in err and "panicked" not in err, what
        ended = state(engine)
        assert running.returncode != 0 or ended == "published", what
        seen.add(ended)
        for backup in ids(engine):
            engine.delete(backup)
        assert clean_slate(engine), what
    assert "clean" in seen, "no interrupt has hit the first half of a backup"


def test_ctrl_c_comes_out_as_keyboard_interrupt_with_the_cancellation_as_its_cause(
    place: Path, postgres: Server, python: Path
) -> None:
    slow_backup(postgres)
    running = start(python, place, postgres.dsn, "engine.backup(sys.argv[2]).run()")
    time.sleep(1)
    begun = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (out, running.returncode) == ("interrupted CancelledError\n", 130), err
    assert time.monotonic() - begun < 20
    assert clean_slate(Engine(place / "catalog", "pg1"))


def test_a_second_ctrl_c_does_not_wait(place: Path, python: Path) -> None:
    # A server that accepts and says nothing: there is nothing to undo yet, and nothing that could be.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]}"
        running = start(python, place, dsn, "engine.backup(sys.argv[2]).run()")
        time.sleep(0.5)
        begun = time.monotonic()
        running.send_signal(signal.SIGINT)
        time.sleep(0.3)
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "interrupted" in out, err
    assert time.monotonic() - begun < 5
    assert not (place / "catalog").exists()
