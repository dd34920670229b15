"""What needs no PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

import barman_snap
from barman_snap import Engine
from barman_snap.results import Garbage, Listing


def test_a_new_catalog_is_empty(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "catalog", "pg1")
    assert engine.list() == Listing(backups=()) and not engine.list() and len(engine.list()) == 0
    assert engine.recover() == []
    assert engine.gc() == Garbage()
    assert (engine.server, engine.url) == ("pg1", str(tmp_path / "catalog"))


def test_an_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(barman_snap.NotFoundError) as raised:
        Engine(tmp_path, "pg1").show("nightly")
    error = raised.value
    assert (error.kind, error.operation, error.retry, error.sqlstate) == ("not_found", "show", "never", None)
    assert "nightly" in str(error)
    assert error.hint is not None and error.hint in str(error)


def test_bad_requests_are_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(barman_snap.InvalidInputError):
        Engine(tmp_path, "../pg1")
    with pytest.raises(barman_snap.InvalidInputError, match="addressing_style"):
        Engine(tmp_path, "pg1", addressing_style="sideways")  # type: ignore[arg-type]
    with pytest.raises(barman_snap.InvalidInputError):
        Engine(tmp_path, "pg1").recover("not an id")
    with pytest.raises(barman_snap.InvalidInputError):
        Engine(tmp_path, "pg1").delete()
    with pytest.raises(barman_snap.UnsupportedError):
        Engine(tmp_path, "pg1", snapshot_provider="floppy")
    with pytest.raises(barman_snap.InvalidInputError, match="not a good aws"):
        Engine(tmp_path, "pg1", aws={"regoin": "eu-west-1"})  # type: ignore[arg-type]
    with pytest.raises(barman_snap.InvalidInputError, match="duration"):
        Engine(tmp_path, "pg1", wal_timeout=-1)
    with pytest.raises(TypeError):
        Engine(tmp_path, "pg1", "http://s3")  # type: ignore[call-arg]


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(barman_snap.UnavailableError):
        Engine(tmp_path / "catalog", "pg1").backup(f"host={tmp_path}")
    assert not (tmp_path / "catalog").exists()


def test_wal_goes_in_and_comes_out(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "catalog", "pg1")
    history = tmp_path / "00000002.history"
    history.write_text("1\t0/3000000\tno recovery target specified\n")
    engine.wal_archive(history, compression="gzip")
    engine.wal_archive(history)
    engine.wal_restore(history.name, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == history.read_bytes()
    with pytest.raises(barman_snap.NotFoundError):
        engine.wal_restore("000000010000000000000001", tmp_path / "none")
    history.write_text("1\t0/4000000\tother\n")
    with pytest.raises(barman_snap.ConflictError):
        engine.wal_archive(history)


def test_the_package_is_a_restore_command(tmp_path: Path, python: Path) -> None:
    history = tmp_path / "00000002.history"
    history.write_text("1\t0/3000000\tno recovery target specified\n")

    def run(*words: object) -> int:
        command = [str(python), "-m", "barman_snap", *map(str, words)]
        return subprocess.run(command, capture_output=True, check=False, cwd=tmp_path).returncode

    assert run("wal-archive", tmp_path / "catalog", "pg1", history) == 0
    assert run("wal-restore", tmp_path / "catalog", "pg1", history.name, tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == history.read_bytes()
    assert run("wal-restore", tmp_path / "catalog", "pg1", "00000003.history", tmp_path / "none") == 1
    assert run("wal-restore", tmp_path / "catalog", "pg1", "nonsense", tmp_path / "none") == 3
    assert run("wal-restore") == 3


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "pg1")
    engine.list()
    child = os.fork()
    if child == 0:
        # Nothing of the test runner may run here.
        code = 1
        try:
            engine.list()
        except barman_snap.PreconditionError as error:
            code = 0 if "forked" in str(error) and error.hint else 2
        finally:
            del engine
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not engine.list(), "the engine of the parent goes on"


def test_an_engine_may_be_used_by_several_threads(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "pg1")
    seen: list[object] = []
    threads = [threading.Thread(target=lambda: seen.append(engine.list().backups)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [()] * 8


def test_importing_it_sets_nothing_up(python: Path) -> None:
    program = """
import logging, signal, threading
before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)]
import barman_snap
assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)]
assert threading.active_count() == 1 and not logging.root.handlers
import os
assert len(os.listdir("/proc/self/task")) == 1
"""
    ran = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
