"""Google Cloud: Compute Engine (`gcp_compute`), the metadata server (`gcp_metadata`) and Cloud Storage (`gcs`).

Three servers. That of Compute Engine answers the control requests. Actions are named by permissions
(`compute.snapshots.create`, `storage.objects.create`). The projects are `proj-1`, where instances and disks are made, and
`proj-2`; the region is `europe-west1` with its zones b, c and d.

A snapshot is cut `cut_ms` after the call that was answered at once, and then UPLOADING for `ready_ms`.

More of an instance: `zone`. More of a disk: `zone`, or `region` for a regional one; `type` (`pd-ssd`); `consistency_group`, a
name: the policy is made when it is first used; `kms_key`.

`more` of the settings: `snapshot_quota` (snapshots in a project), `denied_permissions` (a list), `access_token` (calls without
it are refused), `token` (`expired`: all calls are refused), `page_size` (of lists), `delete_ms` (how long a snapshot is
DELETING), `here` (the instance that the metadata server is on).
"""

from __future__ import annotations

from typing import Any

from .cloud import Cloud, Place, Unknown, gib
from .disks import DiskBusy
from .faults import BadControl
from .gcp_compute import PREFIX, Compute
from .gcp_disks import add, connect, disconnect, forget, unlink
from .gcp_metadata import Metadata
from .gcp_world import PROJECTS, REGION, ZONES, Bytes, Refusal, World, name_of, parse_link, refreshed, scope_of
from .gcs import Gcs
from .httpd import Server, as_host

PROJECT = PROJECTS[0]
BUCKET = "backups"


def start(place: Place) -> GcpCloud:
    """Starts it, with one empty bucket."""
    return GcpCloud(place)


class GcpCloud(Cloud):
    """The servers, and the world behind them."""

    name = "gcp"

    def __init__(self, place: Place) -> None:
        """Starts the servers."""
        super().__init__(place)
        self.world_ = World()
        self.objects = Gcs(self)
        self.objects.make_bucket(BUCKET, PROJECT)
        compute = Compute(self, self.world_)
        self._api = Server(compute)
        self._tls = as_host("compute.googleapis.com", compute, place.root.parent) if place.tls else None
        self._metadata = Server(Metadata(self, self.world_))
        self._store = Server(self.objects)
        self.objects.url = self._store.url
        self.world_.base = f"{self._api.url}{PREFIX}"

    def endpoints(self) -> dict[str, str]:
        """Of all servers."""
        return {
            "api": self._api.url,
            "metadata": self._metadata.url,
            "store": self._store.url,
            "catalog": f"gs://{BUCKET}/catalog",
            **({"tls": self._tls.url} if self._tls else {}),
        }

    def env(self) -> dict[str, str]:
        """`CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE` is gcloud's own; Google's libraries honour the others."""
        metadata = self._metadata.url.removeprefix("http://")
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self._api.url}{PREFIX}",
            "GCE_METADATA_HOST": metadata,
            "GCE_METADATA_ROOT": metadata,
            "GCE_METADATA_IP": metadata,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "STORAGE_EMULATOR_HOST": self._store.url,
        }

    def close(self) -> None:
        """Stops the servers."""
        for server in (self._api, self._tls, self._metadata, self._store):
            if server:
                server.close()

    # The world

    def _find(self, kind: str, wanted: str) -> tuple[str, Bytes]:
        """By name, id or link."""
        found = [
            (link, thing)
            for link, thing in self.world_.of_kind(kind)
            if wanted in (link, name_of(link), thing.shown["id"])
        ]
        if len(found) != 1:
            raise Unknown(f"there are {len(found)} {kind} {wanted!r}")
        return found[0]

    def create_instance(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        """One with a boot disk of 1 GiB that shows nowhere."""
        zone = more.get("zone", ZONES[0])
        if zone not in ZONES or set(more) - {"zone"}:
            raise BadControl(f"not an instance: {more}")
        place = f"projects/{PROJECT}/zones/{zone}"
        with self.world_.lock:
            link, boot = f"{place}/instances/{name}", f"{place}/disks/{name}"
            if {link, boot} & set(self.world_.things):
                raise BadControl(f"there is a disk or instance {name!r}")
            attached = {
                "kind": "compute#attachedDisk",
                "type": "PERSISTENT",
                "mode": "READ_WRITE",
                "source": self.world_.base + boot,
                "deviceName": "persistent-disk-0",
                "index": 0,
                "boot": True,
                "autoDelete": True,
                "interface": "SCSI",
                "diskSizeGb": "1",
            }
            shown = {
                "status": "RUNNING",
                "machineType": f"{self.world_.base}{place}/machineTypes/n2-standard-2",
                "disks": [attached],
            }
            instance = self.world_.add(link, "instance", shown)
            users = {"users": [instance.shown["selfLink"]]}
            add(self.world_, boot, self.store.create(name, gib(1)), users)
            return {"id": instance.shown["id"], "name": name}

    def create_disk(self, name: str, size_gib: int, more: dict[str, Any]) -> dict[str, Any]:
        """Zonal, or regional."""
        if set(more) - {"zone", "region", "type", "consistency_group", "kms_key", "iops", "throughput"}:
            raise BadControl(f"not a disk: {more}")
        region = more.get("region")
        place = f"regions/{region}" if region else f"zones/{more.get('zone', ZONES[0])}"
        link = f"projects/{PROJECT}/{place}/disks/{name}"
        shown: dict[str, Any] = {"type": f"projects/{PROJECT}/{place}/diskTypes/{more.get('type', 'pd-balanced')}"}
        with self.world_.lock:
            if region:
                shown["replicaZones"] = [f"{self.world_.base}projects/{PROJECT}/zones/{zone}" for zone in ZONES[:2]]
            # Numbers of 64 bits are text in JSON.
            for key, field in (("iops", "provisionedIops"), ("throughput", "provisionedThroughput")):
                if key in more:
                    shown[field] = str(more[key])
            if "kms_key" in more:
                shown["diskEncryptionKey"] = {"kmsKeyName": f"{more['kms_key']}/cryptoKeyVersions/1"}
            if "consistency_group" in more:
                shown["resourcePolicies"] = [self._policy(more["consistency_group"])]
            try:
                disk = add(self.world_, link, self.store.create(name, gib(size_gib)), shown)
            except Refusal as refusal:
                raise BadControl(refusal.message) from None
            return {"id": disk.shown["id"], "name": name}

    def _policy(self, name: str) -> str:
        link = f"projects/{PROJECT}/regions/{REGION}/resourcePolicies/{name}"
        if link not in self.world_.things:
            shown = {"status": "READY", "diskConsistencyGroupPolicy": {}}
            self.world_.add(link, "resourcePolicy", shown)
        return self.world_.base + link

    def attach(self, instance: str, disk: str, device: str | None) -> dict[str, Any]:
        """By device name; a free one is the name of the disk, or one made of it."""
        with self.world_.lock:
            instance_link, _ = self._find("instances", instance)
            disk_link, _ = self._find("disks", disk)
            try:
                name, paths = connect(self.world_, self.store, instance_link, disk_link, device, {})
            except Refusal as refusal:
                raise BadControl(refusal.message) from None
            return {"device": name, "paths": paths}

    def detach(self, disk: str) -> dict[str, Any]:
        """Refused while it is mounted."""
        with self.world_.lock:
            link, thing = self._find("disks", disk)
            try:
                for user in list(thing.shown.get("users", [])):
                    disconnect(self.world_, self.store, self.world_.get(parse_link(user) or ""), link)
            except DiskBusy as busy:
                raise BadControl(str(busy)) from None
            return {}

    def destroy(self, disk: str) -> dict[str, Any]:
        """With its instant snapshots, which are on it."""
        with self.world_.lock:
            link, thing = self._find("disks", disk)
            assert thing.disk is not None
            for user in thing.shown.get("users", []):
                unlink(self.world_.get(parse_link(user) or ""), link)
            self.store.lose(thing.disk)
            forget(self.world_, link)
            return {}

    def world(self) -> dict[str, Any]:
        """Instances, disks, snapshots of both kinds, and the groups of instant ones."""
        with self.world_.lock:
            self.world_.settle()
            return {
                "instances": [self._told(link, thing) for link, thing in self.world_.of_kind("instances")],
                "disks": [self._told(link, thing) for link, thing in self.world_.of_kind("disks")],
                "snapshots": [
                    self._told(link, thing)
                    for kind in ("snapshots", "instantSnapshots", "instantSnapshotGroups")
                    for link, thing in self.world_.of_kind(kind)
                ],
            }

    def _told(self, link: str, thing: Bytes) -> dict[str, Any]:
        shown = refreshed(link, thing)
        told = {
            "id": shown["id"],
            "name": shown["name"],
            "state": shown.get("status"),
            "kind": link.split("/")[-2],
            "link": link,
            "labels": shown.get("labels", {}),
            "scope": scope_of(link),
        }
        if "sourceDisk" in shown:
            told["disk"] = name_of(shown["sourceDisk"])
        if users := shown.get("users"):
            user = parse_link(users[0]) or ""
            attached = [each for each in self.world_.get(user).shown["disks"] if parse_link(each["source"]) == link]
            told["instance"], told["device"] = name_of(user), attached[0]["deviceName"]
            told["paths"] = thing.disk.paths if thing.disk else []
        return told
