"""The command line: `up` runs a set of clouds, `clean` removes what a killed one has left."""

from __future__ import annotations

import argparse
import fcntl
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import tls
from .cloud import Cloud, Place
from .disks import Store, clean


def main() -> int:
    """Parses the command line and obeys it."""
    parser = argparse.ArgumentParser(prog="python3 -m clouds", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run clouds until SIGTERM, or until the standard input ends")
    up.add_argument("--clouds", required=True, help="names, separated by commas: aws,gcp,azure")
    up.add_argument("--root", required=True, type=Path, help="a directory for this set alone; it is removed at the end")
    up.add_argument("--json", action="store_true", help="print one line of JSON when all of them are ready")
    up.add_argument("--tls", action="append", default=[], metavar="CLOUD", help="serve the API also as the cloud's host")
    cleaning = commands.add_parser("clean", help="remove what a set has left that was killed")
    cleaning.add_argument("--root", required=True, type=Path)
    cleaning.add_argument("--when-closed", action="store_true", help="wait for the end of the standard input first")
    arguments = parser.parse_args()
    if arguments.command == "clean":
        return remove(arguments.root, wait=arguments.when_closed)
    return serve(arguments)


def serve(arguments: argparse.Namespace) -> int:
    """Runs a set of clouds."""
    root: Path = arguments.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    # SIGTERM is awaited as a byte in a pipe: what is being made is then made to its end, and can be removed.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    guard = Guard(root)
    clouds: list[Cloud] = []
    store = None
    try:
        store = Store(root)
        for name in arguments.clouds.split(","):
            place = root / name
            place.mkdir()
            start = importlib.import_module(f"{__package__}.{name}").start
            clouds.append(start(Place(place, store, name in arguments.tls)))
        if arguments.json:
            print(json.dumps(describe(root, clouds)), flush=True)
        wait = [woken, sys.stdin.fileno()]
        while not select.select(wait, [], [], None)[0]:
            pass
    finally:
        for cloud in reversed(clouds):
            cloud.close()
        if store is not None:
            store.close()
        guard.close()
    return 0


def describe(root: Path, clouds: list[Cloud]) -> dict[str, Any]:
    """What a program needs to use the set."""
    authority = {"ca": str(tls.authority(root))} if shutil.which("openssl") else {}
    each = {cloud.name: {"endpoints": cloud.endpoints(), "env": cloud.env()} for cloud in clouds}
    return {"root": str(root), **authority, "clouds": each}


class Guard:
    """A process that cleans up as soon as this one has ended, in order or killed."""

    def __init__(self, root: Path) -> None:
        """Starts it."""
        # Two sets in one directory would remove each other's disks.
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        command = [sys.executable, "-m", __package__, "clean", "--when-closed", "--root", str(root)]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        # Not in our group, so that Ctrl-C does not reach it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=env, cwd="/", start_new_session=True)

    def close(self) -> None:
        """Lets it clean up now, and waits until it has."""
        os.close(self._lock)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def remove(root: Path, *, wait: bool) -> int:
    """Cleans up, unless the set is running."""
    root = root.resolve()
    if wait:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while sys.stdin.buffer.read(1):
            pass
    if not root.exists():
        return 0
    with (root / "lock").open("w") as lock:
        try:
            # A killed process's children may hold its files for a moment longer than it lived.
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            print(f"the clouds of {root} are running", file=sys.stderr)
            return 1
        clean(root)
    if os.path.ismount(root / "store"):
        print(f"{root / 'store'} cannot be unmounted", file=sys.stderr)
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
