"""A machine in one of the fake clouds of ``tests/clouds``: PostgreSQL 17 with its data directory on a disk of the cloud, and
its WAL archived into the object store of that cloud by a stock Barman.

This judges nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import pytest
from bed import SERVER, Barman, Cluster, Ran, missing, own_directory, run

INSTANCE = "pg1"
DISK = "pg-data"
_TESTS = Path(__file__).parents[3] / "tests"
_SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
_PROVIDERS = {"aws": "aws-s3", "gcp": "google-cloud-storage", "azure": "azure-blob-storage"}
# What a backup and a restore have to be told of the cloud.
_BACKUP = {
    "aws": (),
    "gcp": ("--gcp-project", "proj-1", "--gcp-zone", "europe-west1-b"),
    "azure": ("--azure-subscription-id", _SUBSCRIPTION, "--azure-resource-group", "rg1"),
}
_RESTORE = {"aws": (), "gcp": ("--gcp-zone", "europe-west1-b"), "azure": ("--azure-resource-group", "rg1")}
# Barman's own client of the object store, as its commands make it.
_KEYS = """
import sys
import barman.output
from barman.clients.cloud_backup_list import parse_arguments
from barman.cloud_providers import get_cloud_interface
provider, url, prefix = sys.argv[1:]
interface = get_cloud_interface(parse_arguments(["--cloud-provider", provider, url, "x"]))
print("\\n".join(interface.list_bucket(prefix, delimiter="")))
"""
# A volume of a snapshot, as a user of AWS makes one.
_VOLUME = """
import sys
import boto3
made = boto3.client("ec2").create_volume(SnapshotId=sys.argv[1], AvailabilityZone="us-east-1a")
print(made["VolumeId"])
"""


class Cloud:
    """A cloud that runs."""

    def __init__(self, name: str, described: dict[str, Any]) -> None:
        self.name = name
        mine = described["clouds"][name]
        self.env: dict[str, str] = mine["env"]
        self.api: str = mine["endpoints"]["api"]
        self.catalog: Optional[str] = mine["endpoints"].get("catalog")

    def control(self, what: str, body: Any = None) -> Any:
        """A control request, see ``tests/clouds/README.md``."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/_control/{what}", data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{what} {body}: {error.read().decode()}") from error
        return json.loads(text) if text else None

    def snapshots(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control("world")["snapshots"]
        return found


@contextlib.contextmanager
def running(name: str, root: Path) -> Iterator[Cloud]:
    """Runs a cloud."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        missing("root and loop devices")
    command = [sys.executable, "-m", "clouds", "up", "--clouds", name, "--root", str(root), "--json"]
    process = subprocess.Popen(command, cwd=_TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            missing(f"the fake of {name}")
        cloud = Cloud(name, json.loads(line))
        if cloud.catalog is None:
            # Azurite is fetched from a registry of Node.js that may be out of reach.
            pytest.skip(f"needs an object store for {name}")
        yield cloud
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


class Machine:
    """The machine, and the commands of a Barman on it."""

    def __init__(self, barman: Barman, cloud: Cloud, at: Path) -> None:
        self.barman = barman
        self.cloud = cloud
        self.at = at
        self.mount = at / "m"
        self.cluster = Cluster(self.mount / "data", own_directory(at / "s"))
        self.cluster.env = cloud.env
        self._config = at / "snap.conf"

    def start(self) -> None:
        self.cloud.control("instances", {"name": INSTANCE})
        self.cloud.control("disks", {"name": DISK, "size_gib": 4})
        device = self.cloud.control("attach", {"instance": INSTANCE, "disk": DISK, "device": None})["paths"][0]
        run("mkfs.ext4", "-q", device, root=True).ok()
        own_directory(self.mount)
        run("mount", device, self.mount, root=True).ok()
        run("chown", "--reference", self.at, self.mount, root=True).ok()
        # Of Azure no variable tells the address.
        self.configure(f"azure.endpoint = {self.cloud.api}" if self.cloud.name == "azure" else "")
        archive = [self.barman.bin / "barman-cloud-wal-archive", "--cloud-provider", _PROVIDERS[self.cloud.name]]
        words = " ".join(map(str, [*archive, self.cloud.catalog, SERVER, "%p"]))
        self.cluster.create(f"archive_command = '{words}'")
        # A disk of a cloud is cut at what was flushed, and initdb was told not to.
        run("sync", "--file-system", self.mount, root=True).ok()
        self.cluster.start()

    def configure(self, more: str) -> None:
        """Writes the configuration of the adapter."""
        self._config.write_text(f"[barman-snap]\nenabled = on\n{more}\n")

    @property
    def env(self) -> dict[str, str]:
        return {**self.cloud.env, "BARMAN_SNAP": str(self._config)}

    def words(self, command: str, *rest: object) -> list[str]:
        """``barman-cloud-<command> … URL main …``: options first, then behind a ``--`` what follows the server."""
        split = rest.index("--") if "--" in rest else len(rest)
        options, behind = rest[:split], rest[split + 1 :]
        told = {"backup": _BACKUP, "restore": _RESTORE}.get(command, {}).get(self.cloud.name, ())
        provider = ("--cloud-provider", _PROVIDERS[self.cloud.name])
        return [str(word) for word in (f"barman-cloud-{command}", *provider, *told, *options, self.cloud.catalog, SERVER, *behind)]

    def adapter(self, command: str, *rest: object, root: bool = False) -> Ran:
        return self.barman.adapter("--", *self.words(command, *rest), env=self.env, root=root)

    def stock(self, command: str, *rest: object) -> Ran:
        return self.barman.stock(*self.words(command, *rest), env=self.cloud.env)

    def backup(self, *options: object) -> str:
        """Takes a backup, and gives its id."""
        before = set(self.ids())
        where = ("-h", self.cluster.socket, "-U", "postgres", "--immediate-checkpoint")
        snapshot = ("--snapshot-instance", INSTANCE, "--snapshot-disk", DISK)
        self.adapter("backup", *where, *snapshot, *options).ok()
        [new] = set(self.ids()) - before
        return new

    def ids(self) -> list[str]:
        return [each["backup_id"] for each in self.adapter("backup-list", "--format", "json").json()["backups_list"]]

    def keys(self, prefix: str) -> list[str]:
        """The objects in the store below a prefix, as Barman's own client lists them."""
        arguments = (_PROVIDERS[self.cloud.name], self.cloud.catalog, f"catalog/{SERVER}/{prefix}")
        return run(self.barman.bin / "python", "-c", _KEYS, *arguments, env=self.cloud.env).ok().split()

    def mount_copy(self, snapshot: str) -> None:
        """Makes a volume of a snapshot of AWS by its own API, attaches it and mounts it where the disk was."""
        volume = run(self.barman.bin / "python", "-c", _VOLUME, snapshot, env=self.cloud.env).ok().strip()
        device = self.cloud.control("attach", {"instance": INSTANCE, "disk": volume, "device": None})["paths"][0]
        run("mount", device, self.mount, root=True).ok()

    def stop(self) -> None:
        self.cluster.stop()
        if os.path.ismount(self.mount):
            run("umount", self.mount, root=True).ok()


class Server:
    """A Barman server on the machine, with its own catalog and WAL, that has the engine snapshot the disk in the cloud.

    It runs as root, because the engine mounts the volumes that it restores to.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.home = machine.at / "barman"
        self._config = machine.at / "barman.conf"

    def start(self) -> None:
        """Also lets the cluster archive to it."""
        incoming = own_directory(self.home / SERVER / "incoming")
        own_directory(self.machine.at / "conf.d")
        told = {
            "aws": "",
            "gcp": "gcp_project = proj-1\ngcp_zone = europe-west1-b\n",
            "azure": f"azure_subscription_id = {_SUBSCRIPTION}\nazure_resource_group = rg1\n",
        }
        self._config.write_text(
            f"[barman]\nbarman_user = root\nbarman_home = {self.home}\nlog_file = {self.machine.at}/barman.log\n"
            f"configuration_files_directory = {self.machine.at}/conf.d\n"
            f"[{SERVER}]\ndescription = tested\nconninfo = {self.machine.cluster.dsn}\narchiver = on\n"
            f"backup_method = snapshot\nsnapshot_provider = {self.machine.cloud.name}\n"
            f"snapshot_instance = {INSTANCE}\nsnapshot_disks = {DISK}\n{told[self.machine.cloud.name]}"
        )
        cluster = self.machine.cluster
        cluster.sql(f"ALTER SYSTEM SET archive_command = 'cp %p {incoming}/%f'")
        cluster.sql("SELECT pg_reload_conf()")
        self.run("check", SERVER)
        self.run("switch-wal", "--force", "--archive", SERVER).ok()

    def run(self, *words: object) -> Ran:
        return self.machine.barman.adapter("--", "barman", "-c", self._config, *words, env=self.machine.env, root=True)

    def ids(self) -> list[str]:
        listed = self.run("-f", "json", "list-backups", SERVER).json()
        return [each["backup_id"] for each in listed.get(SERVER, [])]

    def events(self, backup_id: str) -> list[str]:
        """What the journal of the engine says of a backup."""
        folder = self.home / SERVER / "barman-snap" / SERVER / "sessions" / backup_id
        return [json.loads(entry.read_text())["event"] for entry in sorted(folder.glob("*.json"))]
