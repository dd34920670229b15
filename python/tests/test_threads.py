"""Threads really run at once while the engine works, and ten thousand calls leave nothing behind."""

from __future__ import annotations

import gc
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import barman_snap
from barman_snap import CancelToken, Engine

CALLS = 10_000


def segment(path: Path) -> Path:
    """A WAL segment that takes a while to compress: its header, and noise that is there twice."""
    number, size = int(path.name[-8:], 16), 16 << 20
    header = struct.pack("<HHIQI4xQII", 0xD116, 2, 1, number * size, 0, 4711, size, 8192)
    noise = b"".join(os.urandom(4096) * 2 for _ in range(2048))
    path.write_bytes(header + noise[len(header) :])
    return path


def archive(engine: Engine, path: Path, spans: list[tuple[float, float]]) -> None:
    begun = time.monotonic()
    engine.wal_archive(path, compression="xz", compression_level="high")
    spans.append((begun, time.monotonic()))


def test_two_threads_work_at_once_and_python_goes_on(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "catalog", "pg1")
    files = [segment(tmp_path / f"00000001000000000000000{i}") for i in (1, 2)]
    spans: list[tuple[float, float]] = []
    threads = [threading.Thread(target=archive, args=(engine, file, spans)) for file in files]
    longest_pause, last = 0.0, time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        now = time.monotonic()
        longest_pause, last = max(longest_pause, now - last), now
        time.sleep(0.001)
    (a, b), (c, d) = spans
    overlap = min(b, d) - max(a, c)
    assert min(b - a, d - c) > 0.5, "too fast to tell; make the segment harder"
    assert overlap > 0.6 * min(b - a, d - c), f"{overlap:.2f} s of {b - a:.2f} s and {d - c:.2f} s"
    assert longest_pause < 0.5, f"Python stood still for {longest_pause:.2f} s"


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def missing(engine: Engine) -> None:
    with pytest.raises(barman_snap.NotFoundError):
        engine.show("nightly")


def refused(engine: Engine) -> None:
    with pytest.raises(barman_snap.InvalidInputError):
        Engine(engine.url, "pg1", snapshot_method="by hand")


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.list(),
        missing,
        refused,
        lambda engine: CancelToken().cancel(),
        lambda engine: engine.gc(),
    ],
    ids=["list", "error", "bad_option", "token", "gc"],
)
def test_ten_thousand_calls_leave_nothing_behind(tmp_path: Path, call: Callable[[Engine], object]) -> None:
    engine = Engine(tmp_path, "pg1")
    for _ in range(CALLS // 10):
        call(engine)
    gc.collect()
    objects, memory = len(gc.get_objects()), resident()
    counts = [sys.getrefcount(each) for each in (engine, Engine, CancelToken, barman_snap.NotFoundError)]
    for _ in range(CALLS):
        call(engine)
    gc.collect()
    assert [sys.getrefcount(each) for each in (engine, Engine, CancelToken, barman_snap.NotFoundError)] == counts
    assert len(gc.get_objects()) - objects < 100
    assert resident() - memory < 4 << 20, f"{(resident() - memory) / CALLS:.0f} bytes for each call"


def test_a_thousand_engines_leave_no_thread_and_no_file_behind(tmp_path: Path) -> None:
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(1000):
        Engine(tmp_path, "pg1").list()
    for _ in range(100):
        if count() <= before:
            break
        time.sleep(0.05)
    assert count() <= before
