"""Disks of the fake, and how they come to instances and go:
https://cloud.google.com/compute/docs/reference/rest/v1/disks, …/instances/attachDisk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import devices
from .disks import GIB, Disk, DiskBusy
from .gcp_snapshots import check_body
from .gcp_world import Bytes, Refusal, Resource, World, name_of, parse_link, region_of, scope_of, timestamp
from .httpd import Request

if TYPE_CHECKING:
    from .gcp_compute import Compute

SETTABLE = {
    "name",
    "description",
    "sizeGb",
    "type",
    "labels",
    "sourceSnapshot",
    "diskEncryptionKey",
    "replicaZones",
    "provisionedIops",
    "provisionedThroughput",
    "resourcePolicies",
}


def add(world: World, link: str, disk: Disk, more: Resource) -> Bytes:
    """A disk that exists."""
    default = f"{'/'.join(link.split('/')[:4])}/diskTypes/pd-balanced"
    shown: Resource = {
        "status": "READY",
        "sizeGb": str(disk.size // GIB),
        "labelFingerprint": "NDJXbVNwQjBycFk=",
        "physicalBlockSizeBytes": "4096",
        **more,
        "type": world.base + (parse_link(str(more.get("type", default))) or default),
    }
    thing = world.add(link, "disk", shown)
    thing.disk = disk
    return thing


def insert(api: Compute, request: Request, collection: str, _name: str) -> Resource:
    """`disks.insert`, empty or of a snapshot."""
    body = check_body(request.json(), SETTABLE)
    link = f"{collection}/{body['name']}"
    if link in api.world.things:
        raise Refusal(409, "alreadyExists", f"The resource '{link}' already exists")
    kind = name_of(str(body.get("type", "pd-balanced")))
    if not kind.startswith("hyperdisk-") and ({"provisionedIops", "provisionedThroughput"} & set(body)):
        raise Refusal(400, "invalid", f"Invalid value for field 'resource.provisionedIops': disk type {kind} takes none.")
    if scope_of(link).startswith("regions/") != ("replicaZones" in body):
        raise Refusal(400, "invalid", "Invalid value for field 'resource.replicaZones': a regional disk has two.")
    size, cut, more = int(body.get("sizeGb", 10)) * GIB, None, dict(body)
    if "sourceSnapshot" in body:
        source = api.world.get(parse_link(body["sourceSnapshot"]) or body["sourceSnapshot"])
        if source.snapshot is None or refreshed_status(source) != "READY":
            raise Refusal(400, "resourceNotReady", f"The resource '{body['sourceSnapshot']}' is not ready")
        cut = source.snapshot.bytes()
        size = int(body["sizeGb"]) * GIB if "sizeGb" in body else cut.size
        if size < cut.size:
            raise Refusal(400, "invalid", "Invalid value for field 'resource.sizeGb': smaller than the snapshot.")
        more["sourceSnapshot"], more["sourceSnapshotId"] = source.shown["selfLink"], source.shown["id"]
    more.pop("sizeGb", None)
    thing = add(api.world, link, api.cloud.store.create(body["name"], size, cut), more)
    return api.world.operate(link, "insert", lambda: True, thing.shown["id"])


def refreshed_status(thing: Bytes) -> str:
    """The status of a snapshot now."""
    from .gcp_world import SNAPSHOT_STATUS

    assert thing.snapshot is not None
    return "DELETING" if thing.shown.get("status") == "DELETING" else SNAPSHOT_STATUS[thing.snapshot.phase]


def delete(api: Compute, _request: Request, collection: str, name: str) -> Resource:
    """`disks.delete`. Its instant snapshots go with it."""
    link = f"{collection}/{name}"
    thing = api.world.get(link)
    if thing.shown.get("users"):
        user = name_of(thing.shown["users"][0])
        message = f"The disk resource '{link}' is already being used by '{user}'"
        raise Refusal(400, "resourceInUseByAnotherResource", message)
    assert thing.disk is not None
    api.cloud.store.delete(thing.disk)
    forget(api.world, link)
    return api.world.operate(link, "delete", lambda: True, thing.shown["id"])


def forget(world: World, link: str) -> None:
    """The disk and its instant snapshots are gone."""
    del world.things[link]
    for instant, thing in world.of_kind("instantSnapshots"):
        if parse_link(thing.shown["sourceDisk"]) == link:
            del world.things[instant]


def attach(api: Compute, request: Request, collection: str, name: str) -> Resource:
    """`instances.attachDisk`."""
    body = request.json()
    instance_link = f"{collection}/{name}"
    instance = api.world.get(instance_link)
    disk_link = parse_link(str(body.get("source", ""))) or ""
    connect(api.world, api.cloud.store, instance_link, disk_link, body.get("deviceName"), body)
    return api.world.operate(instance_link, "attachDisk", lambda: True, instance.shown["id"])


def connect(
    world: World, store: Any, instance_link: str, disk_link: str, device: str | None, body: Resource
) -> tuple[str, list[str]]:
    """Attaches; device name and paths."""
    instance, disk = world.get(instance_link), world.get(disk_link)
    zone = scope_of(instance_link)
    here = scope_of(disk_link)
    if here != zone and not (here.startswith("regions/") and here == f"regions/{region_of(zone)}"):
        raise Refusal(400, "invalid", f"Invalid value for field 'source': the disk is not in {zone}.")
    if disk.shown.get("users"):
        user = name_of(disk.shown["users"][0])
        message = f"The disk resource '{disk_link}' is already being used by '{user}'"
        raise Refusal(400, "resourceInUseByAnotherResource", message)
    attached: list[Resource] = instance.shown["disks"]
    taken = {each["deviceName"] for each in attached}
    if device is not None and device in taken:
        raise Refusal(400, "invalid", f"Invalid value for field 'deviceName': '{device}' is in use.")
    name = device or free_name(taken, name_of(disk_link))
    assert disk.disk is not None
    paths = store.attach(disk.disk, devices.gcp(name))
    attached.append(
        {
            "kind": "compute#attachedDisk",
            "type": "PERSISTENT",
            "mode": body.get("mode", "READ_WRITE"),
            "source": world.base + disk_link,
            "deviceName": name,
            "index": max((each["index"] for each in attached), default=-1) + 1,
            "boot": bool(body.get("boot", False)),
            "autoDelete": bool(body.get("autoDelete", False)),
            "interface": "SCSI",
            "diskSizeGb": str(disk.disk.size // GIB),
        }
    )
    disk.shown["users"] = [instance.shown["selfLink"]]
    disk.shown["lastAttachTimestamp"] = timestamp()
    return name, paths


def free_name(taken: set[str], wanted: str) -> str:
    """A device name that neither the instance nor another set of clouds has."""
    names = [wanted, *(f"{wanted[:50]}-{os.getpid()}-{number}" for number in range(100))]
    return next(name for name in names if name not in taken and not os.path.lexists(f"/dev/disk/by-id/google-{name}"))


def detach(api: Compute, request: Request, collection: str, name: str) -> Resource:
    """`instances.detachDisk`, by the device name."""
    link = f"{collection}/{name}"
    instance = api.world.get(link)
    wanted = request.query.get("deviceName", "")
    for attached in instance.shown["disks"]:
        if attached["deviceName"] == wanted:
            try:
                disconnect(api.world, api.cloud.store, instance, parse_link(attached["source"]) or "")
            except DiskBusy as busy:
                # The real one would take it away from under the file system. A test that forgets to unmount shall fail.
                raise Refusal(400, "invalid", f"the fake refuses: {busy}") from None
            return api.world.operate(link, "detachDisk", lambda: True, instance.shown["id"])
    raise Refusal(400, "invalid", f"Invalid value for field 'disk': no attached disk found with device name '{wanted}'")


def disconnect(world: World, store: Any, instance: Bytes, disk_link: str) -> None:
    """Detaches a disk."""
    disk = world.get(disk_link)
    assert disk.disk is not None
    store.detach(disk.disk)
    unlink(instance, disk_link)
    disk.shown.pop("users", None)
    disk.shown["lastDetachTimestamp"] = timestamp()


def unlink(instance: Bytes, disk_link: str) -> None:
    """The instance does not show the disk any more."""
    instance.shown["disks"] = [each for each in instance.shown["disks"] if parse_link(each["source"]) != disk_link]
