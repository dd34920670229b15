"""The playground of the examples tells its story to the end, with the oldest Barman that the adapter knows.

The scripts compare the rows themselves; here it is looked at what a person would see, and at what is left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed import PG_BIN, Barman, missing, need_postgres

_PLAYGROUND = Path(__file__).parents[3] / "examples" / "playground"
# What `barman check` says of every server that streams.
_BARMAN = (
    "PostgreSQL", "superuser or standard user with backup privileges", "PostgreSQL streaming", "wal_level", "replication slot",
    "directories", "retention policy settings", "backup maximum age", "backup minimum size", "wal maximum age", "wal size",
    "compression settings", "failed backups", "minimum redundancy requirements", "systemid coherence", "pg_receivexlog",
    "pg_receivexlog compatible", "receive-wal running", "archiver errors",
)  # fmt: skip
_BASEBACKUP = ("pg_basebackup", "pg_basebackup compatible", "pg_basebackup supports tablespaces mapping")
_SNAPSHOT = (
    "snapshot instance exists", "snapshot disks attached to instance", "snapshot disks mounted on instance",
    "snapshot catalog writable", "snapshot sessions", "snapshot privileges", "snapshot archiving", "snapshot paths",
    "snapshots possible",
)  # fmt: skip
_OURS = ("catalog writable", "PostgreSQL", "privileges", "archiving", "paths", "instance", "volumes", "coverage", "snapshots possible")


@pytest.fixture
def door() -> Iterator[Path]:
    """A directory that is not there yet; whatever a test leaves in it is stopped and removed."""
    need_postgres()
    base = Path(tempfile.mkdtemp(prefix="bsnap-p-", dir=os.environ.get("BARMAN_SNAP_TEST_DIR", "/var/tmp")))
    base.chmod(0o755)
    try:
        yield base / "play"
    finally:
        _play(base / "play", "clean")
        shutil.rmtree(base)


def _play(door: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = _command()
    env = {
        **os.environ,
        "PLAYGROUND_DIR": str(door),
        "PLAYGROUND_BARMAN_SNAP": command,
        "PLAYGROUND_BARMAN": str(Barman("3.12.1").bin.parent),
        "PLAYGROUND_PG_BIN": str(PG_BIN),
    }
    script = [str(_PLAYGROUND / "playground"), *words]
    with tempfile.TemporaryFile("w+") as out:  # Servers that are started keep a pipe open.
        done = subprocess.run(script, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False, timeout=400)
        out.seek(0)
        return subprocess.CompletedProcess(script, done.returncode, out.read(), "")


def _command() -> str:
    target = Path(os.environ.get("CARGO_TARGET_DIR", _PLAYGROUND.parents[1] / "target"))
    path = target / "debug" / "barman-snap"
    if not path.exists():
        missing("the command barman-snap; run cargo build -p barman-snap-cli")
    return str(path)


def _lines(checked: str) -> dict[str, str]:
    """The lines of a check and what each says."""
    return dict(re.findall(r"^\t([^:]+): (OK|FAILED)", checked, re.MULTILINE))


def test_the_story_is_told_to_its_end(door: Path) -> None:
    Barman.of("3.12.1")
    told = _play(door, "story")
    assert told.returncode == 0, told.stdout
    start, first, second, third = re.split(r"==> Act \d", told.stdout)

    assert "3.12.1 Barman by EnterpriseDB" in start
    for act, checks in ((first, _BARMAN + _BASEBACKUP), (second, _BARMAN + _SNAPSHOT), (third, _OURS)):
        checked = _lines(act)
        assert set(checks) <= set(checked), set(checks) - set(checked)
        assert set(checked.values()) == {"OK"}, checked
        assert act.count("sums equal") == 1
    assert "Backup Method        : postgres" in first
    assert "Backup Method        : snapshot-concurrent" in second
    # The engine took the second one, and only that.
    events = re.findall(r"^\d{4}-\S+Z (\w+)$", told.stdout, re.MULTILINE)
    assert events == re.findall(r"^\d{4}-\S+Z (\w+)$", second, re.MULTILINE)
    assert events[0] == "planned" and events[-1] == "published" and "cut_reached" in events
    # The same facts in the same shape.
    for fact in ("Server Name", "System Id", "Status", "PGDATA directory", "Begin WAL", "End WAL", "Begin LSN", "End LSN"):
        assert re.search(rf"^ +{fact} +: \S", second, re.MULTILINE) and re.search(rf"^ +{fact} +: \S", third, re.MULTILINE), fact
    assert "7 checks passed" in third

    running = subprocess.run(["pgrep", "-f", str(door)], capture_output=True, text=True, check=False).stdout.split()
    assert running, "the servers go on after the story"
    assert _play(door, "clean").returncode == 0
    assert not door.exists()
    left = subprocess.run(["pgrep", "-af", str(door)], capture_output=True, text=True, check=False).stdout
    assert left == ""


def test_nonsense_is_answered_in_one_line(door: Path) -> None:
    for words, wanted in (
        (("check",), "begin with: playground reset"),
        (("rset",), "there is no command rset"),
    ):
        ran = _play(door, *words)
        assert ran.returncode == 1 and ran.stdout.startswith("error: ") and ran.stdout.count("\n") == 1, ran.stdout
        assert wanted in ran.stdout
    # A directory that is somebody's is not removed.
    door.mkdir()
    (door / "theirs").write_text("kept")
    ran = _play(door, "reset")
    assert ran.returncode == 1 and ran.stdout.count("\n") == 1 and "left alone" in ran.stdout, ran.stdout
    assert (door / "theirs").read_text() == "kept"
    shutil.rmtree(door)
