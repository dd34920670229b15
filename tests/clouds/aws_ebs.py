"""The EBS part of EC2: moto's, with bytes, time, limits and the calls that moto lacks.

moto keeps what is said of volumes and snapshots; `Ebs` keeps the bytes and what happens in time, by their ids. `responses`
makes the class that answers the calls.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.responses import EC2Response

from . import devices, life
from .aws_locks import Locks, now
from .cloud import gib
from .disks import Disk, DiskBusy, DiskError, Store
from .faults import Settings

# Families that run on Xen; every later one is Nitro and shows volumes as NVMe devices.
# https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-nitro-instances.html
XEN = {"t1", "t2", "m1", "m2", "m3", "m4", "c1", "c3", "c4", "r3", "r4", "i2", "i3", "d2", "h1", "x1", "x1e", "g3", "p2"}

_STATES = {
    life.Phase.CREATING: "pending",
    life.Phase.COPYING: "pending",
    life.Phase.READY: "completed",
    life.Phase.FAILED: "error",
}


def name_of(tagged: Any) -> str:
    """The value of the tag `Name`; empty without."""
    return next((tag["value"] for tag in tagged.get_tags() if tag["key"] == "Name"), "")


class Ebs:
    """Bytes, states and limits of the volumes and snapshots of all regions."""

    def __init__(self, store: Store, settings: Settings) -> None:
        """Nothing yet."""
        self.store = store
        self.settings = settings
        self.lock = threading.RLock()
        self.snapshots: dict[str, life.Snapshot] = {}
        self.locks = Locks(settings, self.completed)
        self.tokens: dict[str, tuple[str, dict[str, Any]]] = {}
        self.fast: dict[tuple[str, str], tuple[datetime, int]] = {}
        self._disks: dict[str, Disk] = {}
        self._made: dict[str, float] = {}
        self._busy: dict[str, tuple[Any, str]] = {}

    def disk(self, volume: Any) -> Disk:
        """The bytes of a volume. Root volumes, which moto makes with their instance, get theirs when first needed."""
        with self.lock:
            if volume.id not in self._disks:
                self._disks[volume.id] = self.store.create(volume.id, gib(int(volume.size)))
            disk = self._disks[volume.id]
            disk.id, disk.name = volume.id, name_of(volume) or volume.id
            return disk

    def born(self, volume: Any, source: str | None) -> None:
        """A volume was made, of a snapshot or empty."""
        cut = self.snapshots[source].bytes() if source in self.snapshots else None
        self._disks[volume.id] = self.store.create(volume.id, gib(int(volume.size)), cut)
        self._made[volume.id] = time.time()

    def gone(self, volume: Any, *, lost: bool) -> None:
        """A volume was deleted, or is lost."""
        disk = self._disks.pop(volume.id, None)
        if disk is not None:
            (self.store.lose if lost else self.store.delete)(disk)

    def attach(self, volume: Any, instance: Any, device: str) -> None:
        """Shows a volume to its instance, which is this machine. `DeviceInUse` when the name is taken."""
        disk = self.disk(volume)
        if instance.instance_type.split(".")[0] in XEN:
            self.store.attach(disk, devices.aws_xen(device))
            return
        number = 1
        while True:
            while os.path.lexists(f"/dev/nvme{number}n1"):
                number += 1
            try:
                self.store.attach(disk, devices.aws_nitro(volume.id, number))
                return
            except devices.DeviceInUse:
                number += 1

    def detach(self, volume: Any, instance: Any, device: str, *, force: bool) -> bool:
        """Takes a volume away. A mounted one stays, busy, and goes as soon as it is unmounted; then this is false."""
        try:
            self.store.detach(self.disk(volume), force=force)
        except DiskBusy:
            self._busy[volume.id] = (instance, device)
            volume.attachment.status = "busy"
            return False
        self._busy.pop(volume.id, None)
        return True

    def settle(self, backend: Any) -> None:
        """Brings what moto says up to the present: states of snapshots, volumes that are not busy any more, and volumes
        whose instance was terminated."""
        with self.lock:
            for volume in backend.volumes.values():
                if volume.attachment is None and volume.id in self._disks:
                    self.store.detach(self._disks[volume.id], force=True)
            for snapshot in backend.snapshots.values():
                if snapshot.id in self.snapshots:
                    snapshot.status = _STATES[self.snapshots[snapshot.id].phase]
            for volume_id, (instance, device) in list(self._busy.items()):
                volume = backend.volumes.get(volume_id)
                if volume is not None and self.detach(volume, instance, device, force=False):
                    backend.detach_volume(volume_id, instance.id, device)

    def completed(self, snapshot_id: str) -> datetime | None:
        """When a snapshot was completed, if it is. What moto made with its images always was."""
        snapshot = self.snapshots.get(snapshot_id)
        if snapshot is None:
            return datetime.fromtimestamp(0, timezone.utc)
        return datetime.fromtimestamp(snapshot.ready_at, timezone.utc) if snapshot.phase is life.Phase.READY else None

    def check_quota(self, more: int) -> None:
        """Refuses so many snapshots if there were too many then."""
        quota = self.settings.more.get("snapshot_quota")
        if quota is not None and len(self.snapshots) + more > quota:
            raise EC2ClientError("SnapshotLimitExceeded", f"Maximum allowed snapshot limit ({quota}) exceeded.")

    def check_limits(self, volume: Any) -> None:
        """Refuses one snapshot too many of a volume.

        https://docs.aws.amazon.com/ebs/latest/userguide/ebs-resource-quotas.html
        """
        mine = [snapshot for snapshot in self.snapshots.values() if snapshot.disk.id == volume.id]
        unfinished = sum(snapshot.phase is not life.Phase.READY for snapshot in mine)
        limit = self.settings.max_concurrent
        if limit is None:
            limit = 1 if volume.volume_type in ("st1", "sc1") else 5
        if unfinished >= limit:
            message = f"Maximum allowed in-progress snapshots ({limit}) for the volume exceeded."
            raise EC2ClientError("ConcurrentSnapshotLimitExceeded", message)
        last = max((snapshot.requested for snapshot in mine), default=0.0)
        if time.time() < last + self.settings.min_interval_ms / 1000:
            message = "The maximum per volume CreateSnapshot request rate has been exceeded. Use an increasing or "
            raise EC2ClientError(
                "SnapshotCreationPerVolumeRateExceeded", message + "variable sleep interval between requests."
            )

    def take(self, volumes: Sequence[Any], snapshots: Sequence[Any]) -> None:
        """Cuts volumes at one instant for snapshots that moto has made."""
        disks = [self.disk(volume) for volume in volumes]
        for snapshot, taken in zip(snapshots, life.take(self.store, disks, self.settings, late=False), strict=True):
            self.snapshots[snapshot.id] = taken

    def shows(self, snapshot_id: str) -> bool:
        """Whether lists show a snapshot yet."""
        snapshot = self.snapshots.get(snapshot_id)
        return snapshot is None or time.time() >= snapshot.requested + self.settings.lag_ms / 1000

    def drop(self, snapshot_id: str) -> None:
        """A snapshot was deleted."""
        self.locks.forget(snapshot_id)
        if (snapshot := self.snapshots.pop(snapshot_id, None)) is not None:
            snapshot.drop(self.store)

    def described(self, snapshot: Any) -> dict[str, Any]:
        """A snapshot as in the answers of the API."""
        found = {
            "SnapshotId": snapshot.id,
            "VolumeId": snapshot.volume_id,
            "VolumeSize": int(snapshot.volume_size),
            "State": snapshot.status,
            "StartTime": snapshot.start_time,
            "Progress": "100%",
            "OwnerId": snapshot.owner_id,
            "Description": snapshot.description or "",
            "Encrypted": snapshot.encrypted,
            "KmsKeyId": snapshot.kms_key_id,
            "StorageTier": snapshot.storage_tier,
            "Tags": snapshot.tag_set,
        }
        if (bytes_ := self.snapshots.get(snapshot.id)) is not None:
            found["State"] = _STATES[bytes_.phase]
            found["Progress"] = f"{bytes_.percent}%"
            found["StateMessage"] = bytes_.reason
            found["CompletionTime"] = self.completed(snapshot.id)
        return {key: value for key, value in found.items() if value is not None}

    def initialised(self, volume_id: str) -> int:
        """Percent of a volume that was fetched from its snapshot. `more.init_ms` of the settings says how long it takes."""
        takes = self.settings.more.get("init_ms", 0) / 1000
        age = time.time() - self._made.get(volume_id, 0)
        return 100 if age >= takes else int(100 * age / takes)


def page(items: Iterable[Any], limit: int | None, token: str | None) -> tuple[list[Any], str | None]:
    """One page of a list. The token is opaque to clients; here it is the place where the next page begins."""
    everything = list(items)
    try:
        begin = int(token) if token else 0
    except ValueError:
        raise EC2ClientError("InvalidNextToken", "The token is not valid.") from None
    if limit is None:
        return everything[begin:], None
    end = begin + limit
    return everything[begin:end], str(end) if end < len(everything) else None


def responses(ebs: Ebs) -> type[EC2Response]:
    """The class that answers EC2's calls."""

    class EbsResponse(EC2Response):
        def _snapshot(self, snapshot_id: str) -> Any:
            snapshot = self.ec2_backend.snapshots.get(snapshot_id)
            if snapshot is None:
                raise EC2ClientError("InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist.")
            return snapshot

        def create_snapshot(self) -> ActionResult:
            tags = self._parse_tag_specification().get("snapshot", {})
            self.error_on_dryrun()
            volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
            return ActionResult(self._create([volume], lambda _: tags)[0])

        def create_snapshots(self) -> ActionResult:
            tags = self._parse_tag_specification().get("snapshot", {})
            specification = self._get_param("InstanceSpecification", {})
            self.error_on_dryrun()
            volumes = self._chosen(specification)
            copy = self._get_param("CopyTagsFromSource") == "volume"

            def all_tags(volume: Any) -> dict[str, str]:
                own = {tag["key"]: tag["value"] for tag in volume.get_tags()} if copy else {}
                return {key: value for key, value in own.items() if not key.startswith("aws:")} | tags

            return ActionResult({"Snapshots": self._create(volumes, all_tags)})

        def _chosen(self, specification: dict[str, Any]) -> list[Any]:
            instance = self.ec2_backend.get_instance(specification.get("InstanceId"))
            mapping = dict(instance.get_block_device_mapping)
            excluded = set(specification.get("ExcludeDataVolumeIds", []))
            root = mapping.get(instance.root_device_name)
            if len(excluded) > 40:
                raise EC2ClientError("InvalidParameterValue", "At most 40 data volumes can be excluded.")
            if root is not None and root.volume_id in excluded:
                message = f"{root.volume_id} is the root volume; use ExcludeBootVolume to exclude it."
                raise EC2ClientError("InvalidParameterValue", message)
            if specification.get("ExcludeBootVolume") and root is not None:
                excluded.add(root.volume_id)
            ids = [device.volume_id for device in mapping.values() if device.volume_id not in excluded]
            if not ids:
                raise EC2ClientError("InvalidParameterValue", "No volume is left to take a snapshot of.")
            return [self.ec2_backend.get_volume(volume_id) for volume_id in ids]

        def _create(self, volumes: list[Any], tags: Any) -> list[dict[str, Any]]:
            with ebs.lock:
                ebs.check_quota(len(volumes))
                for volume in volumes:
                    ebs.check_limits(volume)
                description = self._get_param("Description", "")
                made = [self.ec2_backend.create_snapshot(volume.id, description) for volume in volumes]
                for volume, snapshot in zip(volumes, made, strict=True):
                    snapshot.add_tags(tags(volume))
                ebs.take(volumes, made)
                answer = [ebs.described(snapshot) for snapshot in made]
            # AWS answers when the cut has happened, and that is all that its clients may rely on.
            time.sleep(ebs.settings.cut_ms / 1000)
            return answer

        def describe_snapshots(self) -> ActionResult:
            self.error_on_dryrun()
            ids, limit = self._get_param("SnapshotIds", []), self._get_param("MaxResults")
            if ids and limit is not None:
                raise EC2ClientError("InvalidParameterCombination", "MaxResults cannot be used with snapshot ids.")
            if limit is not None and not 5 <= limit <= 1000:
                raise EC2ClientError("InvalidParameterValue", f"Value ( {limit} ) for parameter maxResults is invalid.")
            for snapshot_id in ids:
                self._snapshot(snapshot_id)
            ebs.settle(self.ec2_backend)
            found = self.ec2_backend.describe_snapshots(ids, self._filters_from_querystring())
            if owners := self._get_param("OwnerIds", []):
                accounts = {self.current_account if owner == "self" else owner for owner in owners}
                found = [snapshot for snapshot in found if snapshot.owner_id in accounts]
            if not ids:
                found = [snapshot for snapshot in found if ebs.shows(snapshot.id)]
            shown, token = page(found, limit, self._get_param("NextToken"))
            return ActionResult({"Snapshots": [ebs.described(snapshot) for snapshot in shown], "NextToken": token})

        def delete_snapshot(self) -> ActionResult:
            snapshot_id = self._get_param("SnapshotId")
            self.error_on_dryrun()
            with ebs.lock:
                self._snapshot(snapshot_id)
                if ebs.locks.holds(snapshot_id):
                    message = f"Snapshot {snapshot_id} is locked and cannot be deleted."
                    raise EC2ClientError("SnapshotLocked", message)
                self.ec2_backend.delete_snapshot(snapshot_id)
                ebs.drop(snapshot_id)
            return EmptyResult()

        def copy_snapshot(self) -> ActionResult:
            self.error_on_dryrun()
            source_id, region = self._get_param("SourceSnapshotId"), self._get_param("SourceRegion")
            source = ec2_backends[self.current_account][region].snapshots.get(source_id)
            if source is not None and source_id in ebs.snapshots and ebs.completed(source_id) is None:
                raise EC2ClientError("IncorrectState", f"The snapshot {source_id} is not completed.")
            answer = super().copy_snapshot()
            if source_id in ebs.snapshots:
                copy_id = answer.result["SnapshotId"]  # type: ignore[index]
                ebs.snapshots[copy_id] = life.copied(ebs.store, ebs.snapshots[source_id], ebs.settings)
            return answer

        def create_volume(self) -> ActionResult:
            self.error_on_dryrun()
            token, source = self._get_param("ClientToken"), self._get_param("SnapshotId")
            with ebs.lock:
                if token in ebs.tokens:
                    volume_id, asked = ebs.tokens[token]
                    if asked != dict(self.params):
                        message = "The client token was used with other parameters."
                        raise EC2ClientError("IdempotentParameterMismatch", message)
                    return ActionResult(self.ec2_backend.get_volume(volume_id))
                if source is not None:
                    self._check_source(self._snapshot(source), self._get_param("Size"))
                answer = super().create_volume()
                volume: Any = answer.result
                ebs.born(volume, source)
                if token is not None:
                    ebs.tokens[token] = (volume.id, dict(self.params))
            return answer

        def _check_source(self, snapshot: Any, size: int | None) -> None:
            state = ebs.described(snapshot)["State"]
            if state != "completed":
                raise EC2ClientError("IncorrectState", f"Snapshot is in invalid state - {state}")
            if size is not None and size < int(snapshot.volume_size):
                message = f"The volume size is invalid for snapshot {snapshot.id}: {size} GiB."
                raise EC2ClientError("InvalidParameterValue", message)

        def delete_volume(self) -> ActionResult:
            self.error_on_dryrun()
            volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
            with ebs.lock:
                answer = super().delete_volume()
                ebs.gone(volume, lost=False)
            return answer

        def describe_volumes(self) -> ActionResult:
            self.error_on_dryrun()
            ids, limit = self._get_param("VolumeIds", []), self._get_param("MaxResults")
            if ids and limit is not None:
                raise EC2ClientError("InvalidParameterCombination", "MaxResults cannot be used with volume ids.")
            for volume_id in ids:
                self.ec2_backend.get_volume(volume_id)
            ebs.settle(self.ec2_backend)
            found = self.ec2_backend.describe_volumes(ids, self._filters_from_querystring())
            shown, token = page(found, limit, self._get_param("NextToken"))
            return ActionResult({"Volumes": shown, "NextToken": token})

        def describe_volume_status(self) -> ActionResult:  # type: ignore[override]
            self.error_on_dryrun()
            found = self.ec2_backend.describe_volumes(self._get_param("VolumeIds", []), None)
            shown, token = page(found, self._get_param("MaxResults"), self._get_param("NextToken"))
            return ActionResult({"VolumeStatuses": [self._status(volume) for volume in shown], "NextToken": token})

        @staticmethod
        def _status(volume: Any) -> dict[str, Any]:
            details = [{"Name": "io-enabled", "Status": "passed"}, {"Name": "io-performance", "Status": "not-applicable"}]
            status = {
                "VolumeId": volume.id,
                "AvailabilityZone": volume.availability_zone,
                "VolumeStatus": {"Status": "ok", "Details": details},
            }
            if volume.snapshot_id:
                progress = ebs.initialised(volume.id)
                status["InitializationStatusDetails"] = {"InitializationType": "default", "Progress": progress}
            return status

        def attach_volume(self) -> ActionResult:
            self.error_on_dryrun()
            volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
            instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
            device = self._get_param("Device")
            with ebs.lock:
                ebs.settle(self.ec2_backend)
                self._check_attachment(volume, instance, device)
                try:
                    ebs.attach(volume, instance, device)
                except devices.DeviceInUse:
                    raise taken(device) from None
                except DiskError as error:
                    raise EC2ClientError("IncorrectState", str(error)) from None
                return super().attach_volume()

        @staticmethod
        def _check_attachment(volume: Any, instance: Any, device: str | None) -> None:
            if volume.attachment is not None:
                message = f"{volume.id} is already attached to an instance"
                raise EC2ClientError("VolumeInUse", message)
            if not device or not device.startswith(("/dev/sd", "/dev/xvd")):
                message = f"Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name."
                raise EC2ClientError("InvalidParameterValue", message)
            if device in instance.block_device_mapping:
                raise taken(device)
            if volume.availability_zone != instance.placement.zone:
                message = f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'"
                raise EC2ClientError("InvalidVolume.ZoneMismatch", message)

        def detach_volume(self) -> ActionResult:
            self.error_on_dryrun()
            volume = self.ec2_backend.get_volume(self._get_param("VolumeId"))
            with ebs.lock:
                ebs.settle(self.ec2_backend)
                attachment = volume.attachment
                if attachment is None:
                    raise EC2ClientError("IncorrectState", f"Volume '{volume.id}' is in the 'available' state.")
                instance, device = attachment.instance, attachment.device
                asked = self._get_param("InstanceId", instance.id), self._get_param("Device", device)
                if asked != (instance.id, device):
                    message = f"The volume '{volume.id}' is not attached to instance '{asked[0]}' as device '{asked[1]}'."
                    raise EC2ClientError("InvalidAttachment.NotFound", message)
                answer = {
                    **{"VolumeId": volume.id, "InstanceId": instance.id, "Device": device},
                    **{"State": "detaching", "AttachTime": attachment.attach_time},
                }
                if ebs.detach(volume, instance, device, force=bool(self._get_param("Force"))):
                    self.ec2_backend.detach_volume(volume.id, instance.id, device)
            return ActionResult(answer)

        def lock_snapshot(self) -> ActionResult:
            self.error_on_dryrun()
            with ebs.lock:
                snapshot = self._snapshot(self._get_param("SnapshotId"))
                ebs.locks.lock(snapshot.id, ebs.described(snapshot)["State"], dict(self.params))
                return ActionResult(ebs.locks.described(snapshot.id))

        def unlock_snapshot(self) -> ActionResult:
            self.error_on_dryrun()
            snapshot = self._snapshot(self._get_param("SnapshotId"))
            ebs.locks.unlock(snapshot.id)
            return ActionResult({"SnapshotId": snapshot.id})

        def describe_locked_snapshots(self) -> ActionResult:
            self.error_on_dryrun()
            wanted, ids = self._filters_from_querystring().get("lock-state"), self._get_param("SnapshotIds", [])
            snapshots = [self._snapshot(each) for each in ids] or list(self.ec2_backend.snapshots.values())
            found = [
                {"OwnerId": snapshot.owner_id, **described}
                for snapshot in snapshots
                if (described := ebs.locks.described(snapshot.id)) and (not wanted or described["LockState"] in wanted)
            ]
            shown, token = page(found, self._get_param("MaxResults"), self._get_param("NextToken"))
            return ActionResult({"Snapshots": shown, "NextToken": token})

        def enable_fast_snapshot_restores(self) -> ActionResult:
            self.error_on_dryrun()
            pairs = self._fast_pairs()
            for snapshot_id, zone in pairs:
                self._snapshot(snapshot_id)
                ebs.fast.setdefault((snapshot_id, zone), (now(), ebs.settings.ready_ms))
            return ActionResult({"Successful": [self._fast(*pair) for pair in pairs], "Unsuccessful": []})

        def disable_fast_snapshot_restores(self) -> ActionResult:
            self.error_on_dryrun()
            done = [{**self._fast(*pair), "State": "disabling"} for pair in self._fast_pairs() if ebs.fast.pop(pair, None)]
            return ActionResult({"Successful": done, "Unsuccessful": []})

        def describe_fast_snapshot_restores(self) -> ActionResult:
            self.error_on_dryrun()
            found = [self._fast(*pair) for pair in ebs.fast]
            for name, values in self._filters_from_querystring().items():
                key = {"snapshot-id": "SnapshotId", "availability-zone": "AvailabilityZone", "state": "State"}.get(name)
                if key is None:
                    raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
                found = [each for each in found if each[key] in values]
            return ActionResult({"FastSnapshotRestores": found})

        def _fast_pairs(self) -> list[tuple[str, str]]:
            zones, ids = self._get_param("AvailabilityZones", []), self._get_param("SourceSnapshotIds", [])
            return [(snapshot_id, zone) for snapshot_id in ids for zone in zones]

        def _fast(self, snapshot_id: str, zone: str) -> dict[str, Any]:
            asked, takes = ebs.fast.get((snapshot_id, zone), (now(), 0))
            age = (now() - asked).total_seconds() * 1000
            state = "enabled" if age >= takes else "optimizing" if age >= takes / 2 else "enabling"
            owner = self.current_account
            return {"SnapshotId": snapshot_id, "AvailabilityZone": zone, "State": state, "OwnerId": owner, "EnablingTime": asked}

    return EbsResponse


def taken(device: str | None) -> EC2ClientError:
    """A device name that is in use, by this instance or (told the same way) by other clouds on this machine."""
    message = f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
    return EC2ClientError("InvalidParameterValue", message)
