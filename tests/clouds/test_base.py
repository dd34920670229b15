"""The parts that all clouds share: disks, device names, the life of snapshots, faults, the server."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from clouds import devices, life, tls
from clouds.cloud import Cloud, Place
from clouds.disks import GIB, DiskBusy, DiskError, Store, clean, run
from clouds.faults import BadControl, FaultPlan, Settings
from clouds.httpd import Api, Request, Response, Server, Subject, as_host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may attach disks")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()
    assert str(tmp_path) not in run("losetup", "-l", "-n", "-O", "BACK-FILE")
    assert not os.path.ismount(tmp_path / "store")
    # Other clouds of this machine may have names of theirs.
    assert str(tmp_path) not in {one.read_text() for one in devices.RESERVATIONS.glob("*")}


def now(snapshot: life.Snapshot) -> life.Phase:
    """Its phase. By a function, so that type checkers do not believe that it stays the same."""
    return snapshot.phase


def free_name() -> list[devices.Name]:
    """A device name of Amazon's that nobody uses, as several of these tests may run at once."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for name in (f"/dev/xvd{first}{second}" for first in "cd" for second in letters):
        if not os.path.lexists(name):
            return devices.aws_xen(name)
    raise AssertionError("all names are taken")


def write(path: str, offset: int, data: bytes) -> None:
    """Writes and flushes, as a database does."""
    file = os.open(path, os.O_WRONLY | os.O_SYNC)
    os.pwrite(file, data, offset)
    os.close(file)


def read(path: str, offset: int, length: int) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, length, offset)
    finally:
        os.close(file)


def test_bytes_survive_cut_loss_and_rebirth(store: Store) -> None:
    disk = store.create("data", 2 * GIB)
    (path,) = store.attach(disk, free_name())
    write(path, GIB + 512, b"before")
    (cut,) = store.cut([disk])
    write(path, GIB + 512, b"after!")
    store.lose(disk)
    assert not os.path.lexists(path)
    again = store.create("again", 3 * GIB, cut)
    store.drop(cut)
    (path,) = store.attach(again, free_name())
    assert read(path, GIB + 512, 6) == b"before"
    assert read(path, 3 * GIB - 6, 6) == bytes(6)
    with pytest.raises(DiskError, match="fewer"):
        store.create("small", GIB, cut)


def test_what_the_machine_has_not_flushed_is_not_in_the_cut(store: Store, tmp_path: Path) -> None:
    disk = store.create("data", GIB)
    (path,) = store.attach(disk, free_name())
    run("mkfs.ext4", "-q", path)
    mount = tmp_path / "guest"
    mount.mkdir()
    run("mount", path, mount)
    with pytest.raises(DiskBusy):
        store.detach(disk)
    (mount / "flushed").write_bytes(b"x" * 8192)
    with (mount / "flushed").open("rb+") as file:
        os.fsync(file.fileno())
    (mount / "pending").write_bytes(b"y" * 8192)
    (cut,) = store.cut([disk])
    run("umount", mount)
    store.detach(disk)
    assert not os.path.lexists(path)
    copy = store.create("copy", GIB, cut)
    (path,) = store.attach(copy, free_name())
    run("mount", path, mount)
    try:
        assert (mount / "flushed").read_bytes() == b"x" * 8192
        pending = mount / "pending"
        assert not pending.exists() or pending.read_bytes() != b"y" * 8192
    finally:
        run("umount", mount)


def test_two_disks_are_cut_at_one_instant(store: Store) -> None:
    disks = [store.create(name, GIB) for name in ("a", "b")]
    paths = [store.attach(disk, free_name())[0] for disk in disks]
    stop = threading.Event()

    def writer() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for path in paths:
                write(path, 0, number.to_bytes(8))

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        pairs = []
        for _ in range(30):
            pairs.append(store.cut(disks))
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
    values = [tuple(int.from_bytes(cut.path.open("rb").read(8)) for cut in pair) for pair in pairs]
    # b is written after a: at every instant it has a's number, or the one before.
    assert all(a - b in (0, 1) for a, b in values), values
    assert values[-1][0] > 1


def test_a_disk_keeps_its_sectors_when_it_is_cut_and_copied(store: Store) -> None:
    disk = store.create("a", GIB)
    (path,) = store.attach(disk, free_name())
    before = run("blockdev", "--getss", path)
    (again,) = store.attach(store.create("b", GIB, store.cut([disk])[0]), free_name())
    assert run("blockdev", "--getss", again) == before == run("blockdev", "--getss", path)
    # Without this the page cache of the machine would be part of the medium.
    assert run("losetup", "-n", "-O", "DIO", str(disk.loop)) == "1"


def test_a_name_below_dev_belongs_to_one(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    disks = [store.create(name, GIB) for name in ("a", "b")]
    names = free_name()
    store.attach(disks[0], names)
    with pytest.raises(devices.DeviceInUse):
        store.attach(disks[1], names)
    assert not disks[1].attached
    foreign = tmp_path_factory.mktemp("foreign") / "node"
    foreign.touch()
    with pytest.raises(devices.DeviceInUse, match="already"):
        store.attach(disks[1], [devices.Name(str(foreign), node=True)])
    assert foreign.exists()


def test_links_are_made_and_removed_with_their_directories(store: Store) -> None:
    disk = store.create("a", GIB)
    unique = f"bed-{os.getpid()}"
    names = [*devices.gcp(unique), *devices.azure(4000 + os.getpid())]
    for path in store.attach(disk, names):
        assert os.path.realpath(path) == disk.loop
    store.detach(disk)
    assert not any(os.path.lexists(name.path) for name in names)


def becomes(snapshot: life.Snapshot, phase: life.Phase) -> bool:
    """Waits until it is in that phase, as long as a busy machine may need."""
    deadline = time.monotonic() + 30
    while now(snapshot) is not phase and time.monotonic() < deadline:
        time.sleep(0.05)
    return now(snapshot) is phase


def test_a_late_cut_has_what_was_written_after_the_request(store: Store) -> None:
    disk = store.create("data", GIB)
    (path,) = store.attach(disk, free_name())
    settings = Settings(cut_ms=1000, ready_ms=3000)
    (snapshot,) = life.take(store, [disk], settings, late=True)
    assert now(snapshot) is life.Phase.CREATING and snapshot.percent == 0
    with pytest.raises(DiskError):
        snapshot.bytes()
    write(path, 0, b"late")
    snapshot.wait_cut()
    write(path, 0, b"over")
    assert now(snapshot) is life.Phase.COPYING and snapshot.percent < 100
    assert snapshot.bytes().path.open("rb").read(4) == b"late"
    assert becomes(snapshot, life.Phase.READY) and snapshot.percent == 100
    store.lose(disk)
    assert now(snapshot) is life.Phase.READY


def test_snapshots_fail_when_told_and_when_their_disk_is_lost(store: Store) -> None:
    disk, other = (store.create(name, GIB) for name in ("data", "other"))
    told, lost = life.take(store, [disk, other], Settings(ready_ms=2000, fail_after_cut=["data"]), late=False)
    store.lose(other)
    assert now(lost) is life.Phase.FAILED and "lost" in str(lost.reason)
    assert now(told) is life.Phase.COPYING
    assert becomes(told, life.Phase.FAILED)
    third = store.create("third", GIB)
    (kept,) = life.take(store, [third], Settings(ready_ms=2000), late=False)
    store.delete(third)
    assert now(kept) is life.Phase.COPYING
    assert becomes(kept, life.Phase.READY)
    (gone,) = life.take(store, [disk], Settings(cut_ms=100), late=True)
    gone.drop(store)
    assert becomes(gone, life.Phase.FAILED)
    assert len(list((store.root / "store" / "cuts").iterdir())) == 3


def test_a_fault_plan_counts() -> None:
    plan = FaultPlan()
    plan.set([
        {"action": "Create", "kind": "throttle", "skip": 1, "times": 2, "match": {"resource": "pg-data"}},
        {"action": "*", "kind": "denied", "skip": 4, "times": None},
    ])
    hits = [plan.take("Create", "vol-1 pg-data") for _ in range(6)]
    assert [hit and hit.kind for hit in hits] == [None, "throttle", "throttle", None, "denied", "denied"]
    assert plan.take("Other", "x").kind == "denied"  # type: ignore[union-attr]
    wrong: Any
    for wrong in ({}, [{"action": "x"}], [{"action": "x", "kind": "typo"}], [{"action": "x", "kind": "fail", "o": 1}]):
        with pytest.raises(BadControl):
            plan.set(wrong)


class Echo(Api, Cloud):
    """A cloud that does nothing but count."""

    name = "echo"
    counted = 0

    def __init__(self, place: Place) -> None:
        Cloud.__init__(self, place)
        self.cloud = self

    def identify(self, request: Request) -> Subject:
        return Subject(request.method, request.path)

    def handle(self, request: Request) -> Response:
        if request.path == "/defect":
            raise RuntimeError("a defect")
        self.counted += 1
        return Response.of({"body": request.body.decode(), "query": request.query})

    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        status = {"throttle": 429, "denied": 403, "fail": 500}[kind]
        return Response.of({}, status, {"Retry-After": str(int(seconds))}, code=kind)

    def endpoints(self) -> dict[str, str]:
        return {}

    def env(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass

    def _nothing(self, *_: Any) -> dict[str, Any]:
        return {}

    create_instance = create_disk = attach = detach = destroy = world = _nothing  # type: ignore[assignment]


def test_an_api_is_served_as_its_host_on_an_address_of_its_own(tmp_path: Path) -> None:
    echo = Echo(Place(tmp_path, store=None))  # type: ignore[arg-type]
    servers = [as_host("api.example.com", echo, tmp_path) for _ in range(2)]
    context = ssl.create_default_context(cafile=str(tls.authority(tmp_path)))

    def ask(server: Server, name: str) -> bytes:
        address = urlsplit(server.url)
        assert address.port == 443 and address.hostname
        with socket.create_connection((address.hostname, 443), timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname=name) as connection:
                connection.sendall(f"GET /here HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
                return b"".join(iter(lambda: connection.recv(4096), b""))

    try:
        assert servers[0].url != servers[1].url
        for server in servers:
            assert ask(server, "api.example.com").startswith(b"HTTP/1.1 200")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(servers[0], "other.example.com")
        assert [call["resource"] for call in echo.calls.list()] == ["/here", "/here"]
    finally:
        for server in servers:
            server.close()


def test_the_server_answers_logs_and_fails_on_demand(tmp_path: Path) -> None:
    echo = Echo(Place(tmp_path, store=None))  # type: ignore[arg-type]
    server = Server(echo)
    address = urlsplit(server.url).netloc

    def ask(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(address, timeout=5)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None

    try:
        assert ask("PUT", "/a%2Fb?x=1&y", b"hello") == (200, {"body": "hello", "query": {"x": "1", "y": ""}})
        assert ask("HEAD", "/h") == (200, None)
        assert ask("GET", "/defect")[0] == 599
        plan = [
            {"action": "PUT", "kind": "lost_reply"},
            {"action": "PUT", "kind": "hang", "seconds": 0.1},
            {"action": "PUT", "kind": "throttle", "seconds": 7},
        ]
        assert ask("POST", "/_control/faults", plan)[0] == 200
        for _ in range(2):
            with pytest.raises(http.client.RemoteDisconnected):
                ask("PUT", "/lost")
        assert ask("PUT", "/lost")[0] == 429
        # The lost reply had its effect, the other two had none.
        assert echo.counted == 3
        calls = ask("GET", "/_control/calls")[1]
        assert [(call["resource"], call["status"]) for call in calls] == [
            *(("/a%2Fb", 200), ("/h", 200), ("/defect", 500)),
            *(("/lost", 0), ("/lost", 0), ("/lost", 429)),
        ]
        assert ask("POST", "/_control/settings", {"cut_ms": 5})[0] == 200
        assert ask("GET", "/_control/settings")[1]["cut_ms"] == 5
        assert ask("POST", "/_control/settings", {"cut": 5})[0] == 400
        assert ask("GET", "/_control/nothing")[0] == 404
        ask("POST", "/_control/reset")
        assert ask("GET", "/_control/calls")[1] == []
    finally:
        server.close()


def up(root: Path) -> subprocess.Popen[str]:
    """A set without clouds: disks, guard and clean-up are what is tested."""
    code = (
        "import sys; from clouds import __main__ as m, disks, devices; from pathlib import Path\n"
        "root = Path(sys.argv[1]); guard = m.Guard(root); store = disks.Store(root)\n"
        "print(store.attach(store.create('a', disks.GIB), devices.aws_xen(sys.argv[2]))[0], flush=True)\n"
        "sys.stdin.read(); store.close(); guard.close()\n"
    )
    command = [sys.executable, "-c", code, str(root), free_name()[0].path]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize("how", ["in order", "killed"])
def test_nothing_is_left(tmp_path: Path, how: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    process = up(root)
    assert process.stdout and process.stdin
    path = process.stdout.readline().strip()
    run("mkfs.ext4", "-q", path)
    guest = tmp_path / "guest"
    guest.mkdir()
    run("mount", path, guest)
    assert main_refuses_to_clean(root)
    if how == "killed":
        process.send_signal(signal.SIGKILL)
    else:
        process.stdin.close()
    process.wait()
    end = time.monotonic() + 10
    while root.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not root.exists()
    assert not os.path.lexists(path) and not os.path.ismount(guest)
    assert str(root) not in run("losetup", "-l", "-n", "-O", "BACK-FILE")
    clean(root)


def main_refuses_to_clean(root: Path) -> bool:
    """Whether the disks of a running set are safe from `clean`."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "clouds", "clean", "--root", str(root)]
    return subprocess.run(command, env=env, capture_output=True).returncode == 1
