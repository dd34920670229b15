"""A throw-away PostgreSQL. It runs as user ``postgres`` when the tests run as root, because PostgreSQL refuses root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from barman_snap import Engine

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"

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


def ids(engine: Engine) -> list[str]:
    """The backups in the catalog."""
    return [each.backup_id for each in engine.list()]


def clean_slate(engine: Engine) -> bool:
    """Nothing is in the catalog, no session is open, and no snapshot belongs to nobody."""
    left = engine.gc()
    return not ids(engine) and not left.orphans and not left.open_sessions and left.refusal is None


def slow_backup(postgres: Server) -> None:
    """Makes the checkpoint of the next backup take a while, unless it is asked to be immediate."""
    postgres.sql("CREATE TABLE much AS SELECT repeat(md5(g::text), 10) FROM generate_series(1, 50000) g")


@contextlib.contextmanager
def _short_directory() -> Iterator[Path]:
    """A directory of the server user, with a short path: sockets may have 107 bytes only."""
    base = os.environ.get("BARMAN_SNAP_TEST_DIR", "/var/tmp")
    path = Path(tempfile.mkdtemp(prefix=f"bsnap-{os.getpid()}-", dir=base))
    path.chmod(0o755)
    if SERVER_USER is not None:
        shutil.chown(path, SERVER_USER, SERVER_USER)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the server user for one test."""
    with _short_directory() as path:
        yield path


@pytest.fixture(scope="session")
def cluster() -> Iterator[tuple[Path, Path]]:
    """The programs of PostgreSQL, and a data directory to copy: initdb takes longer than most tests."""
    bin_dir = _bin_dir()
    if bin_dir is None:
        assert os.environ.get("CI") != "true", "CI must have PostgreSQL"
        pytest.skip("needs PostgreSQL")
    with _short_directory() as path:
        as_server_user(bin_dir / "initdb", "-D", path / "data", "-U", "postgres", "-A", "trust", "--no-sync")
        yield bin_dir, path / "data"


def _server(cluster: tuple[Path, Path], place: Path) -> Iterator[Server]:
    bin_dir, template = cluster
    as_server_user("cp", "-a", template, place / "data")
    server = Server(bin_dir, place / "data", place)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres(place: Path, cluster: tuple[Path, Path]) -> Iterator[Server]:
    """A server with its socket, and its data directory, in ``place``."""
    yield from _server(cluster, place)


@pytest.fixture
def other(place: Path, cluster: tuple[Path, Path]) -> Iterator[Server]:
    """Another server."""
    as_server_user("mkdir", place / "o")
    yield from _server(cluster, place / "o")


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
