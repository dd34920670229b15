"""A throw-away PostgreSQL. It runs as user ``postgres`` when the tests run as root, because PostgreSQL refuses root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

SERVER_USER: Optional[str] = "postgres" if os.geteuid() == 0 else None


def _bin_dir() -> Optional[Path]:
    """The newest PostgreSQL of the machine, or the last one of ``BARMAN_SNAP_PG_BIN_DIRS``."""
    named = os.environ.get("BARMAN_SNAP_PG_BIN_DIRS")
    if named:
        return Path(named.split(":")[-1])
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


def as_server_user(*command: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a command as the user of the servers. One that fails raises, with all it said."""
    if SERVER_USER is not None:
        options.update(user=SERVER_USER, group=SERVER_USER, extra_groups=[])
    words = [str(word) for word in command]
    ran = subprocess.run(words, capture_output=True, text=True, cwd="/", check=False, **options)
    assert ran.returncode == 0, f"{words}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran


class Server:
    """A PostgreSQL server on a socket of its own."""

    def __init__(self, bin_dir: Path, data: Path, socket: Path) -> None:
        self.bin_dir = bin_dir
        self.data = data
        self.socket = socket

    @property
    def dsn(self) -> str:
        return f"host={self.socket} user=postgres dbname=postgres"

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.socket} -c archive_mode=off"
        pg_ctl = self.bin_dir / "pg_ctl"
        # With pipes for its output, pg_ctl would seem to run for as long as the server does.
        as_server_user(pg_ctl, "-D", self.data, "-o", options, "-l", self.data.parent / "log", "-w", "start")

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            as_server_user(self.bin_dir / "pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def sql(self, statement: str) -> str:
        return as_server_user(self.bin_dir / "psql", "-XAtq", "-d", self.dsn, "-c", statement).stdout.strip()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the server user, with a short path: sockets may have 107 bytes only."""
    base = os.environ.get("BARMAN_SNAP_TEST_DIR", "/var/tmp")
    path = Path(tempfile.mkdtemp(prefix=f"bsnap-{os.getpid()}-", dir=base))
    path.chmod(0o755)
    if SERVER_USER is not None:
        shutil.chown(path, SERVER_USER, SERVER_USER)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def postgres(place: Path) -> Iterator[Server]:
    bin_dir = _bin_dir()
    if bin_dir is None:
        assert os.environ.get("CI") != "true", "CI must have PostgreSQL"
        pytest.skip("needs PostgreSQL")
    data = place / "data"
    as_server_user(bin_dir / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    server = Server(bin_dir, data, place)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def restored(place: Path, postgres: Server) -> Iterator[Server]:
    """The server of a data directory that does not exist yet."""
    socket = place / "r"
    as_server_user("mkdir", socket)
    server = Server(postgres.bin_dir, socket / "data", socket)
    yield server
    server.stop()


@pytest.fixture
def python() -> Path:
    """The Python that runs the tests, for a process of its own."""
    return Path(sys.executable)
