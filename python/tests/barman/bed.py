"""Where the adapter is tested: stock Barmans of the known versions, and a server of theirs with a cluster on btrfs.

Each Barman has an environment of its own (``tools/setup.sh test``), into which the package was installed as for any user
(``tools/stubs.sh``). Everything runs as the user of the servers. This judges nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Optional

import pytest
from conftest import SERVER_USER

VERSIONS = ("3.19.1", "3.13.3", "3.12.1")
SERVER = "main"
_TOOLS = Path(sys.prefix).parent
PG_BIN = _TOOLS / "pg17" / "bin"


def missing(what: str) -> NoReturn:
    """Skips the test, except where everything has to be there."""
    assert os.environ.get("CI") != "true", f"CI must have {what}"
    pytest.skip(f"needs {what}")


@pytest.fixture
def alone() -> Iterator[None]:
    """No other process of the tests installs the adapter into an environment, or removes it, meanwhile."""
    with open(_TOOLS / "installation.lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Ran:
    """A command that has run."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def ok(self) -> str:
        """What it printed; it must have succeeded."""
        assert self.code == 0, f"{' '.join(self.words)}: {self.code}\n{self.out}\n{self.err}"
        return self.out

    def json(self) -> Any:
        """The same as JSON."""
        return json.loads(self.ok())


def run(*words: object, env: Optional[Mapping[str, str]] = None, root: bool = False) -> Ran:
    """Runs a command as the user of the servers, or as root, with nothing of this environment but what is given."""
    options: dict[str, Any] = {}
    if SERVER_USER is not None and not root:
        options = {"user": SERVER_USER, "group": SERVER_USER, "extra_groups": []}
    command = [str(word) for word in words]
    # Written to files: a server that is started keeps a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        clean = {"PATH": f"{PG_BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **(env or {})}
        done = subprocess.run(command, stdout=out, stderr=err, env=clean, cwd="/", check=False, timeout=300, **options)
        out.seek(0)
        err.seek(0)
        return Ran(tuple(command), done.returncode, out.read(), err.read())


@dataclass(frozen=True)
class Barman:
    """A stock Barman in its environment."""

    version: str

    @property
    def old(self) -> bool:
        """From before 3.14, which brought ``restore``, ``--tag``, and the field ``encryption``."""
        return int(self.version.split(".")[1]) < 14

    @property
    def bin(self) -> Path:
        return _TOOLS / f"barman-{self.version}" / "bin"

    @classmethod
    def of(cls, version: str) -> "Barman":
        found = cls(version)
        if not (found.bin / "barman").exists():
            missing(f"Barman {version}; run tools/setup.sh test")
        if not list(found.bin.parent.glob("lib/python*/site-packages/barman_snap/_native*")):
            missing(f"the package beside Barman {version}; run tools/stubs.sh")
        return found

    def adapter(self, *words: object, env: Optional[Mapping[str, str]] = None, root: bool = False) -> Ran:
        """``python -m barman_snap.barman …``. As root when it is to write into the environment."""
        return run(self.bin / "python", "-m", "barman_snap.barman", *words, env=self._env(env), root=root)

    def stock(self, *words: object, env: Optional[Mapping[str, str]] = None) -> Ran:
        """A command by its own script."""
        return run(self.bin / str(words[0]), *words[1:], env=self._env(env))

    def _env(self, env: Optional[Mapping[str, str]]) -> dict[str, str]:
        return {"PATH": f"{self.bin}:{PG_BIN}:/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})}


class Cluster:
    """A PostgreSQL 17 on a socket of its own."""

    def __init__(self, data: Path, socket: Path) -> None:
        self.data = data
        self.socket = socket
        self.env: Mapping[str, str] = {}

    @property
    def dsn(self) -> str:
        return f"host={self.socket} user=postgres dbname=postgres"

    def create(self, *settings: str) -> None:
        words = ("-U", "postgres", "-A", "trust", "-k", "--no-sync", "--wal-segsize=1", "--locale=C.UTF-8")
        run(PG_BIN / "initdb", "-D", self.data, *words).ok()
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write("\n".join(["listen_addresses = ''", "archive_mode = on", *settings]) + "\n")

    def start(self) -> None:
        log = self.socket / "log"
        ran = run(PG_BIN / "pg_ctl", "-D", self.data, "-o", f"-k {self.socket}", "-l", log, "-w", "start", env=self.env)
        assert ran.code == 0, log.read_text()

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            run(PG_BIN / "pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def sql(self, statement: str) -> str:
        return run(PG_BIN / "psql", "-XAtq", "-d", self.dsn, "-c", statement).ok().strip()

    def fill(self) -> None:
        """Makes a table with something to compare."""
        self.sql("CREATE TABLE kept AS SELECT g, md5(g::text) AS h FROM generate_series(1, 20000) AS g")

    def sums(self) -> str:
        return self.sql("SELECT count(*), md5(string_agg(h, '' ORDER BY g)) FROM kept")


def own_directory(path: Path) -> Path:
    """A new directory of the user of the servers."""
    run("mkdir", "-p", path).ok()
    return path


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory of the user of the servers, with a short path."""
    base = os.environ.get("BARMAN_SNAP_TEST_DIR", "/var/tmp")
    path = Path(tempfile.mkdtemp(prefix=f"bsnap-{os.getpid()}-", dir=base))
    path.chmod(0o755)
    if SERVER_USER is not None:
        shutil.chown(path, SERVER_USER, SERVER_USER)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def btrfs(at: Path) -> Iterator[Path]:
    """A mounted file system with a subvolume ``pg`` in it."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists() or shutil.which("mkfs.btrfs") is None:
        missing("root, loop devices and btrfs")
    image = at / "image"
    mount = own_directory(at / "fs")
    with open(image, "wb") as file:
        file.truncate(2 << 30)
    run("mkfs.btrfs", "-q", image, root=True).ok()
    run("mount", "-o", "loop,user_subvol_rm_allowed", image, mount, root=True).ok()
    try:
        shutil.chown(mount, SERVER_USER or "root", SERVER_USER or "root")
        run("btrfs", "subvolume", "create", mount / "pg").ok()
        yield mount
    finally:
        run("umount", mount, root=True).ok()


def need_postgres() -> None:
    if not (PG_BIN / "initdb").exists():
        missing("PostgreSQL 17; run tools/setup.sh test")


class Site:
    """A server of Barman on this host, with the local provider, and its cluster."""

    def __init__(self, barman: Barman, at: Path, fs: Path) -> None:
        self.barman = barman
        self.at = at
        self.fs = fs
        self.home = at / "barman"
        self.config = at / "barman.conf"
        self.cluster = Cluster(fs / "pg" / "data", own_directory(at / "s"))

    def start(self) -> None:
        incoming = own_directory(self.home / SERVER / "incoming")
        own_directory(self.at / "conf.d")
        self.config.write_text(
            f"[barman]\nbarman_user = {SERVER_USER or os.environ['USER']}\nbarman_home = {self.home}\n"
            f"configuration_files_directory = {self.at}/conf.d\nlog_file = {self.at}/barman.log\n"
            f"[{SERVER}]\ndescription = tested\nconninfo = {self.cluster.dsn}\narchiver = on\n"
            "backup_method = snapshot\nsnapshot_provider = local\n"
        )
        command = f"test ! -f {incoming}/%f && cp %p {incoming}/.%f && mv {incoming}/.%f {incoming}/%f"
        self.cluster.create(f"archive_command = '{command}'")
        self.cluster.start()
        # Makes the directories of the server, among them the one that the archiver waits for.
        self.run("check", SERVER)
        self.run("switch-wal", "--force", "--archive", SERVER).ok()

    def run(self, *words: object, env: Optional[Mapping[str, str]] = None) -> Ran:
        """``barman …`` through the adapter."""
        return self.barman.adapter("--", "barman", "-c", self.config, *words, env=env)

    def stock(self, *words: object, env: Optional[Mapping[str, str]] = None) -> Ran:
        """``barman …`` by its own script."""
        return self.barman.stock("barman", "-c", self.config, *words, env=env)

    def backup(self, *words: object) -> str:
        """Takes a backup, and gives its id."""
        ran = self.run("backup", SERVER, "--immediate-checkpoint", "--wait", *words)
        assert ran.code == 0, f"{ran}\n{self.log()}"
        newest = self.ids()[0]
        # Barman's ids are seconds, and it does not look whether there is one already.
        while time.strftime("%Y%m%dT%H%M%S") <= newest:
            time.sleep(0.05)
        return newest

    def log(self) -> str:
        """The end of what Barman has logged: its messages often say no more than to look there."""
        return "".join((self.at / "barman.log").read_text().splitlines(keepends=True)[-30:]) + self.run("check", SERVER).out

    def ids(self) -> list[str]:
        """The backups that Barman has, newest first."""
        listed = self.run("-f", "json", "list-backups", SERVER).json()
        return [each["backup_id"] for each in listed.get(SERVER, [])]

    def events(self, backup_id: str) -> list[str]:
        """What the journal of the engine says of a backup, in its order."""
        folder = self.home / SERVER / "barman-snap" / SERVER / "sessions" / backup_id
        return [json.loads(entry.read_text())["event"] for entry in sorted(folder.glob("*.json"))]

    def snapshots(self) -> list[str]:
        """The subvolumes that the engine has made."""
        folder = self.fs / ".barman_snap"
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []
