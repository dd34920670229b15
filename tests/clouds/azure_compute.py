"""Microsoft.Compute of the fake of Azure: virtual machines, managed disks and snapshots, with bytes.

States, errors and their wording follow the published API (DiskRP 2024-03-02, ComputeRP 2024-07-01) and answers of the
service that users have reported; a comment says where a thing is only likely.
"""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from . import devices, life
from .cloud import gib
from .disks import Disk, DiskBusy, Store
from .faults import Settings

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
GROUPS = ("rg1", "rg2")
LOCATION = "westeurope"
SLOW = ("UltraSSD_LRS", "PremiumV2_LRS")
LUNS = 64
# What a resource may have beside `properties`. A client that sends its own spelling of these is refused.
_MEMBERS = {"id", "name", "type", "location", "tags", "sku", "zones", "properties", "managedBy", "extendedLocation"}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, target: str | None = None) -> None:
        """As the body will have it."""
        super().__init__(message)
        self.status, self.code, self.message, self.target = status, code, message, target

    def body(self) -> dict[str, Any]:
        """The body of every error of the Resource Manager."""
        error = {"code": self.code, "message": self.message}
        return {"error": {**error, **({"target": self.target} if self.target else {})}}


def now() -> str:
    """The present, as the service writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f0+00:00")


def scope(group: str) -> str:
    """The id of a resource group."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}"


@dataclass
class Resource:
    """A resource of any kind."""

    kind: str
    group: str
    name: str
    location: str = LOCATION
    tags: dict[str, str] = field(default_factory=dict)
    created: str = field(default_factory=now)

    @property
    def id(self) -> str:
        """Its id."""
        return f"{scope(self.group)}/providers/Microsoft.Compute/{self.kind}/{self.name}"

    def head(self) -> dict[str, Any]:
        """What every resource says of itself."""
        kind = f"Microsoft.Compute/{self.kind}"
        return {"name": self.name, "id": self.id, "type": kind, "location": self.location, "tags": self.tags}


@dataclass
class ManagedDisk(Resource):
    """A disk. An OS disk has no bytes."""

    sku: str = "Premium_LRS"
    size_gib: int = 1
    bytes: Disk | None = None
    lun: int | None = None
    owner: Machine | None = None
    zones: list[str] = field(default_factory=list)
    moved: str | None = None
    creation: dict[str, Any] = field(default_factory=lambda: {"createOption": "Empty"})
    more: dict[str, Any] = field(default_factory=dict)

    def show(self) -> dict[str, Any]:
        """As GET answers."""
        owner = {"managedBy": self.owner.id} if self.owner else {}
        properties = {
            "provisioningState": "Succeeded",
            "diskState": "Attached" if self.owner else "Unattached",
            "creationData": self.creation,
            "diskSizeGB": self.size_gib,
            "diskSizeBytes": gib(self.size_gib),
            "timeCreated": self.created,
            "uniqueId": str(uuid.uuid5(uuid.NAMESPACE_URL, self.id)),
            "networkAccessPolicy": "AllowAll",
            "publicNetworkAccess": "Enabled",
            **({"LastOwnershipUpdateTime": self.moved} if self.moved else {}),
            **self.more,
        }
        zones = {"zones": self.zones} if self.zones else {}
        return {**self.head(), **owner, **zones, "sku": {"name": self.sku, "tier": "Premium"}, "properties": properties}


@dataclass
class Snapshot(Resource):
    """A snapshot: of a disk, or a copy of another one."""

    made: life.Snapshot = field(kw_only=True)
    sku: str = "Standard_ZRS"
    slow: bool = False
    properties: dict[str, Any] = field(default_factory=dict)

    def show(self) -> dict[str, Any]:
        """As GET answers."""
        phase = self.made.phase
        state = {life.Phase.CREATING: "Updating", life.Phase.FAILED: "Failed"}.get(phase, "Succeeded")
        properties = {
            **self.properties,
            "provisioningState": state,
            "diskState": "Unattached",
            "diskSizeBytes": self.made.disk.size,
            "diskSizeGB": self.made.disk.size // gib(1),
            "timeCreated": self.created,
            "completionPercent": float(self.made.percent),
        }
        return {**self.head(), "sku": {"name": self.sku, "tier": "Standard"}, "properties": properties}


@dataclass
class Machine(Resource):
    """A virtual machine."""

    size: str = "Standard_D8s_v5"
    zones: list[str] = field(default_factory=list)
    os_disk: ManagedDisk | None = None
    disks: list[ManagedDisk] = field(default_factory=list)

    def storage(self) -> dict[str, Any]:
        """Its disks."""

        def managed(disk: ManagedDisk) -> dict[str, Any]:
            kind = {"id": disk.id, "storageAccountType": disk.sku}
            return {"name": disk.name, "caching": "None", "managedDisk": kind, "diskSizeGB": disk.size_gib}

        data = [
            {**managed(disk), "lun": disk.lun, "createOption": "Attach", "deleteOption": "Detach", "toBeDetached": False}
            for disk in self.disks
        ]
        assert self.os_disk is not None
        system = {**managed(self.os_disk), "osType": "Linux", "createOption": "FromImage", "deleteOption": "Delete"}
        return {"osDisk": system, "dataDisks": data}

    def show(self) -> dict[str, Any]:
        """As GET answers."""
        zones = {"zones": self.zones} if self.zones else {}
        properties = {
            "provisioningState": "Succeeded",
            "vmId": str(uuid.uuid5(uuid.NAMESPACE_URL, self.id)),
            "hardwareProfile": {"vmSize": self.size},
            "storageProfile": self.storage(),
            "timeCreated": self.created,
        }
        return {**self.head(), **zones, "properties": properties}


class Compute:
    """All resources. Its methods may be called from any thread."""

    def __init__(self, store: Store, settings: Settings) -> None:
        """Nothing yet."""
        self.store, self.settings = store, settings
        self.lock = threading.RLock()
        self.resources: dict[tuple[str, str, str], Any] = {}
        self._snapshotted: dict[str, list[float]] = {}

    def all(self, kind: str, group: str | None = None) -> list[Any]:
        """All of a kind, in the order in which they were made."""
        with self.lock:
            found = [each for (_, its, _), each in self.resources.items() if its == kind.lower()]
            return [each for each in found if group is None or each.group.lower() == group.lower()]

    def get(self, kind: str, group: str, name: str) -> Any:
        """A resource; 404 if there is none."""
        if group.lower() not in GROUPS:
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        found = self.resources.get((group.lower(), kind.lower(), name.lower()))
        if found is None:
            what = f"Microsoft.Compute/{kind}/{name}"
            raise Refused(
                404,
                "ResourceNotFound",
                f"The Resource '{what}' under resource group '{group}' was not found. For more details please go to "
                "https://aka.ms/ARMResourceNotFoundFix",
            )
        return found

    def by_id(self, text: str) -> Any:
        """A resource by its id, in any case."""
        parts = text.strip("/").split("/")
        if len(parts) != 8 or parts[0].lower() != "subscriptions" or parts[5].lower() != "microsoft.compute":
            raise Refused(400, "InvalidParameter", f"The value '{text}' of a resource id is invalid.")
        return self.get(parts[6], parts[3], parts[7])

    def add(self, resource: Resource) -> None:
        """Adds a resource."""
        with self.lock:
            self.resources[resource.group.lower(), resource.kind.lower(), resource.name.lower()] = resource

    def forget(self, resource: Any) -> None:
        """Removes a resource; its bytes are the caller's."""
        with self.lock:
            self.resources.pop((resource.group.lower(), resource.kind.lower(), resource.name.lower()), None)

    # Disks

    def new_disk(self, name: str, size_gib: int, **more: Any) -> ManagedDisk:
        """An empty disk."""
        with self.lock:
            disk = ManagedDisk("disks", more.pop("group", GROUPS[0]), name, size_gib=size_gib, **more)
            disk.bytes = self.store.create(name, gib(size_gib))
            disk.bytes.id = disk.id
            self.add(disk)
            return disk

    def put_disk(self, group: str, name: str, body: dict[str, Any]) -> ManagedDisk:
        """Makes a disk, empty or of a snapshot; or changes its tags."""
        creation = _checked(body)
        with self.lock:
            existing: ManagedDisk | None = self.resources.get((group.lower(), "disks", name.lower()))
            if existing is not None:
                _unchanged(existing.creation, creation)
                existing.tags = body.get("tags") or {}
                return existing
            sku, size, cut = (body.get("sku") or {}).get("name", "Standard_LRS"), body["properties"].get("diskSizeGB"), None
            if creation["createOption"] == "Copy":
                source = self.by_id(creation["sourceResourceId"])
                if source.kind != "snapshots":
                    raise Refused(400, "InvalidParameter", "This fake copies snapshots only.", "sourceResourceId")
                _same_place(source, body["location"])
                cut = self._usable(source).bytes()
                size = size or cut.size // gib(1)
            if not size:
                raise Refused(400, "InvalidParameter", "Required parameter 'disk.diskSizeGB' is missing (null).", "disk.diskSizeGB")
            disk = ManagedDisk("disks", group, name, body["location"], body.get("tags") or {}, sku=sku, size_gib=size)
            disk.zones, disk.creation = body.get("zones") or [], creation
            kept = ("diskIOPSReadWrite", "diskMBpsReadWrite", "tier", "encryption", "networkAccessPolicy", "diskAccessId")
            disk.more = {key: body["properties"][key] for key in kept if body["properties"].get(key) is not None}
            if sku not in SLOW and ("diskIOPSReadWrite" in disk.more or "diskMBpsReadWrite" in disk.more):
                raise Refused(400, "InvalidParameter", f"The performance of a disk of sku {sku} cannot be set.", "disk.diskIOPSReadWrite")
            if ("diskAccessId" in disk.more) != (disk.more.get("networkAccessPolicy") == "AllowPrivate"):
                raise Refused(400, "InvalidParameter", "diskAccessId goes with networkAccessPolicy AllowPrivate.", "disk.diskAccessId")
            disk.bytes = self.store.create(name, gib(size), cut)
            disk.bytes.id = disk.id
            self.add(disk)
            return disk

    def _usable(self, snapshot: Snapshot) -> life.Snapshot:
        """What can be made a disk of. The wording is a guess; that it is refused is documented."""
        phase = snapshot.made.phase
        if phase is life.Phase.READY or (phase is life.Phase.COPYING and not snapshot.slow):
            return snapshot.made
        raise Refused(409, "OperationNotAllowed", f"Snapshot {snapshot.name} is not complete: {snapshot.made.percent} percent.")

    def delete_disk(self, disk: ManagedDisk) -> None:
        """Deletes a disk."""
        with self.lock:
            if disk.owner:
                raise Refused(409, "OperationNotAllowed", f"Disk {disk.name} is attached to VM {disk.owner.id}.")
            if disk.bytes:
                self.store.delete(disk.bytes)
            self.forget(disk)

    def attach(self, machine: Machine, disk: ManagedDisk, lun: int | None) -> None:
        """Attaches a disk; without a LUN at the first that is free, also of other fakes on this computer."""
        with self.lock:
            if disk.owner:
                message = f"Disk '{disk.name}' cannot be attached as the disk is already owned by VM '{disk.owner.id}'."
                raise Refused(409, "ConflictingUserInput", message, "dataDisk")
            used = {each.lun for each in machine.disks}
            for number in range(LUNS) if lun is None else [lun]:
                if number in used:
                    continue
                try:
                    assert disk.bytes is not None
                    self.store.attach(disk.bytes, devices.azure(number))
                except devices.DeviceInUse:
                    continue
                disk.lun, disk.owner, disk.moved = number, machine, now()
                machine.disks.append(disk)
                return
            raise Refused(409, "InvalidParameter", f"No LUN is free for disk {disk.name}.", "dataDisk.lun")

    def detach(self, disk: ManagedDisk, *, force: bool = False) -> None:
        """Detaches a disk. Unlike the service it refuses while the disk is mounted."""
        with self.lock:
            if disk.owner is None:
                return
            if disk.bytes:
                try:
                    self.store.detach(disk.bytes, force=force)
                except DiskBusy as error:
                    raise Refused(409, "OperationNotAllowed", f"{error}") from None
            disk.owner.disks.remove(disk)
            disk.owner, disk.lun, disk.moved = None, None, now()

    # Snapshots

    def put_snapshot(self, group: str, name: str, body: dict[str, Any]) -> tuple[Snapshot, bool]:
        """Starts a snapshot, or changes the tags of one; and whether it is new."""
        creation = _checked(body)
        if creation["createOption"] not in ("Copy", "CopyStart"):
            raise Refused(400, "InvalidParameter", "This fake knows createOption Copy and CopyStart.", "createOption")
        with self.lock:
            existing: Snapshot | None = self.resources.get((group.lower(), "snapshots", name.lower()))
            if existing is not None:
                _unchanged(existing.properties["creationData"], creation)
                existing.tags = body.get("tags") or {}
                return existing, False
            source = self.by_id(creation["sourceResourceId"])
            given = {key: value for key, value in body["properties"].items() if value is not None}
            sku = (body.get("sku") or {}).get("name", "Standard_ZRS")
            properties = {"networkAccessPolicy": "AllowAll", "publicNetworkAccess": "Enabled", **given, "creationData": creation}
            if creation["createOption"] == "CopyStart":
                if source.kind != "snapshots" or not (given.get("incremental") and source.properties.get("incremental")):
                    raise Refused(400, "BadRequest", "Only incremental snapshots can be copied.")
                made = life.copied(self.store, self._usable(source), self.settings)
                # A copy can be used when it is complete.
                slow = True
            else:
                _same_place(source, body["location"])
                self._limit(source)
                slow = source.sku in SLOW
                if "logicalSectorSize" in source.creation:
                    creation["logicalSectorSize"] = source.creation["logicalSectorSize"]
                (made,) = life.take(self.store, [source.bytes], self.settings, late=True)
            snapshot = Snapshot("snapshots", group, name, body["location"], body.get("tags") or {}, made=made)
            snapshot.sku, snapshot.slow, snapshot.properties = sku, slow, properties
            self.add(snapshot)
            return snapshot, True

    def _limit(self, disk: ManagedDisk) -> None:
        """Refuses one snapshot too many. The limits are documented, the codes are not."""
        quota = self.settings.more.get("snapshot_quota")
        if quota is not None and len(self.all("snapshots")) >= quota:
            message = f"Operation could not be completed as it results in exceeding approved Quota of snapshots: {quota}."
            raise Refused(409, "OperationNotAllowed", message)
        mine = [each for each in self.all("snapshots") if each.made.disk is disk.bytes]
        pending = sum(each.made.phase in (life.Phase.CREATING, life.Phase.COPYING) for each in mine)
        most = self.settings.max_concurrent
        if most is None:
            most = 3 if disk.sku in SLOW else 500
        if pending >= most:
            raise Refused(409, "OperationNotAllowed", f"Disk {disk.name} has {pending} snapshots that are not complete.")
        made = self._snapshotted.setdefault(disk.id.lower(), [])
        rate = self.settings.more.get("per_five_minutes")
        if rate is not None and sum(time.time() - each < 300 for each in made) >= rate:
            raise Refused(409, "OperationNotAllowed", f"More than {rate} snapshots of disk {disk.name} in 5 minutes.")
        made.append(time.time())

    def delete_snapshot(self, snapshot: Snapshot) -> None:
        """Deletes a snapshot, complete or not."""
        with self.lock:
            snapshot.made.drop(self.store)
            self.forget(snapshot)


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """The creation data of a body that can be understood."""
    for member in body:
        if member not in _MEMBERS:
            message = f"Could not find member '{member}' on object of type 'ResourceDefinition'."
            raise Refused(400, "InvalidRequestContent", f"The request content was invalid and could not be deserialized: '{message}'")
    if not body.get("location"):
        raise Refused(400, "LocationRequired", "The location property is required for this definition.")
    creation = (body.get("properties") or {}).get("creationData")
    if not isinstance(creation, dict) or "createOption" not in creation:
        raise Refused(400, "InvalidParameter", "Required parameter 'creationData' is missing (null).", "creationData")
    known = {key: value for key, value in creation.items() if value is not None and key != "sourceUri"}
    if creation["createOption"] in ("Copy", "CopyStart"):
        if not source_of(creation):
            raise Refused(400, "InvalidParameter", "Required parameter 'sourceResourceId' is missing (null).", "sourceResourceId")
        known["sourceResourceId"] = source_of(creation)
    return known


def source_of(creation: dict[str, Any]) -> str | None:
    """The id of what is copied. The manual has `sourceUri` for blobs only, but an id is taken there, too: Microsoft's samples
    for Python give it so, and stock Barman does."""
    return creation.get("sourceResourceId") or creation.get("sourceUri")


def _unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for member in ("createOption", "sourceResourceId"):
        if str(before.get(member)).lower() != str(after.get(member)).lower():
            raise Refused(409, "PropertyChangeNotAllowed", f"Changing property '{member}' is not allowed.", member)


def _same_place(source: Any, location: str) -> None:
    if source.location != location.replace(" ", "").lower():
        message = f"The source resource {source.id} is in {source.location}, not in {location}."
        raise Refused(400, "InvalidParameter", message, "sourceResourceId")
