"""Snapshot providers that are written in Python.

A provider takes snapshots of volumes and makes volumes of snapshots. The engine decides *when* and *in which order* things
happen, and what is undone; a provider only translates. Derive from `SnapshotProvider` and hand an instance to `Engine`::

    engine = Engine("/srv/catalog", "pg1", snapshot_provider=MyProvider())

What is promised to the engine is in the docstrings below, and `barman_snap.conformance` tests it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Optional

from ._record import Record
from .exceptions import UnsupportedError

__all__ = [
    "AfterCut",
    "CreateRequest",
    "CreateVolumeRequest",
    "FileSystem",
    "Instance",
    "RestoredVolume",
    "SnapshotProvider",
    "SnapshotStatus",
    "Ticket",
    "Volume",
    "VolumeSelection",
    "VolumeSnapshot",
]


@dataclass(frozen=True, repr=False)
class Instance(Record):
    """The machine whose volumes are snapshotted."""

    name: str
    """The name or id that the user gave; for a provider of this machine, its host name."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    """What the provider wants to remember (zone, resource group, ...)."""


@dataclass(frozen=True, repr=False)
class FileSystem(Record):
    """A file system on a disk, at one of the places where it is mounted."""

    fs_type: str
    """``ext4``, ``xfs``, ``btrfs``, ..."""

    mount_point: Path
    """Where it is mounted."""

    fs_root: Path
    """The directory of the file system that is mounted there."""

    options: str
    """The mount options, as ``findmnt -o OPTIONS`` prints them."""

    part: str = ""
    """Where on the disk it lies: empty for the whole disk, ``1`` for its first partition."""

    uuid: Optional[str] = None
    """Its UUID, where the host tells."""

    shared_with: tuple[str, ...] = ()
    """Other disks on which a part of the same file system lies."""


@dataclass(frozen=True, repr=False)
class Volume(Record):
    """A volume: the unit of a snapshot."""

    id: str
    """The name that the user gives (``disks=``), or would give."""

    root: Path
    """The directory at which its content begins, on this host."""

    mount_point: Path
    """Where its file system is mounted."""

    mount_options: str
    """The mount options, as ``findmnt -o OPTIONS`` prints them."""

    device: str
    """The block device or source of the mount, for people."""

    method: str
    """How it will be snapshotted, for people and for the provider."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    """What the provider wants to remember; all that a later process needs to look for snapshots of this volume."""

    file_systems: tuple[FileSystem, ...] = ()
    """The file systems on it, where a volume is a disk."""


@dataclass(frozen=True, repr=False)
class VolumeSelection(Record):
    """Which volumes of an instance are meant: one of the two is given."""

    names: Optional[tuple[str, ...]] = None
    """Those that the user named, in this order. An error for unknown ones lists them all."""

    paths: Optional[tuple[Path, ...]] = None
    """Those that hold these paths, which are absolute and have no symbolic links."""


@dataclass(frozen=True, repr=False)
class VolumeSnapshot(Record):
    """One volume of a request, and the name that its snapshot shall have."""

    volume: Volume
    """The volume."""

    name: str
    """The name."""


@dataclass(frozen=True, repr=False)
class CreateRequest(Record):
    """One volume, or several that are cut by one call."""

    token: str
    """The token of the session. It goes into the very call that creates the snapshot: `SnapshotProvider.find` finds by it."""

    mark: str
    """Whose backup this is; `SnapshotProvider.list` finds by it."""

    backup_id: str
    """The backup."""

    instance: Instance
    """The instance that has the volumes."""

    volumes: tuple[VolumeSnapshot, ...]
    """The volumes. More than one only if `SnapshotProvider.can_group` says so; then the cut is one instant for all."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the user."""


@dataclass(frozen=True, repr=False)
class Ticket(Record):
    """A snapshot as its provider knows it. It is stored, and read by later processes."""

    snapshot: str
    """What the provider needs to find it."""

    name: str
    """The name that it was given."""

    volume: str
    """The `Volume.id` that it is of."""

    root: Path
    """The `Volume.root` of that volume at the time."""

    method: str
    """How it was taken."""

    token: str
    """The token that it carries."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    """What else the provider needs."""


@dataclass(frozen=True, repr=False)
class SnapshotStatus(Record):
    """How far a snapshot is."""

    state: str
    """``creating``; ``cut``: its point in time is fixed, so backup mode may end; ``ready``: it can be restored from even if
    the volume is lost; ``failed``: it will never be usable."""

    reason: Optional[str] = None
    """Why it failed."""

    percent: Optional[int] = None
    """Progress from 0 to 100, where it is known."""

    bytes_copied: Optional[int] = None
    """Bytes that had to be copied, where it is known; 0 for a true snapshot."""


@dataclass(frozen=True, repr=False)
class AfterCut(Record):
    """What is left to do for the snapshots of a backup after backup mode."""

    promote: bool = False
    """`SnapshotProvider.promote` has to be called before they can be ready."""

    secure: bool = False
    """`SnapshotProvider.secure` has to be called when they are."""


@dataclass(frozen=True, repr=False)
class CreateVolumeRequest(Record):
    """What a volume is made of, and where."""

    ticket: Ticket
    """The snapshot."""

    token: str
    """The token of the restore; the volume carries it."""

    subtree: Path
    """The part of the snapshot that is wanted, relative to its root; ``Path()`` for all of it."""

    destination: Optional[Path] = None
    """Where the content goes: a directory that is absent or empty. Given iff `SnapshotProvider.directory_restore`."""

    instance: Optional[Instance] = None
    """The instance that the volume will be attached to. Given unless `SnapshotProvider.directory_restore`."""

    mark: str = ""
    """As in `CreateRequest`; empty for a directory."""

    exclude_content: tuple[Path, ...] = ()
    """Paths relative to ``subtree`` that are not wanted; directories themselves are made, but left empty."""


@dataclass(frozen=True, repr=False)
class RestoredVolume(Record):
    """A volume that was made of a snapshot."""

    id: str
    """The volume as its provider knows it."""

    path: Optional[Path] = None
    """The directory with the content, once it is reachable on this host."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    """What the provider wants to remember; of a device, the token of the restore as ``token``."""

    bytes_copied: Optional[int] = None
    """Bytes that were copied, where it is known."""


class SnapshotProvider(ABC):
    """Something that can take snapshots of volumes, and make volumes of snapshots.

    * Methods are called on threads of the engine, several at once, for one and for different volumes. They may block, and
      must not use the engine that calls them.
    * A method that fails raises one of the exceptions of this package: its class says what went wrong, its ``retry`` whether
      the effect can have happened (``unknown``; then the engine looks with `find`). Any other exception counts as
      ``unknown``.
    * Nothing that matters is kept in the object: all that a later process needs to find, delete or restore a snapshot is in
      its `Ticket`.
    * `delete`, `detach` and `delete_volume` of something that is gone are success.
    * A second `create` for a token and a volume returns the snapshot that there is, or raises `ConflictError`.
    """

    name: ClassVar[str]
    """The name in metadata: lower case, and not one of the engine's own."""

    atomic: bool = False
    """Snapshots are one point in time by themselves. False for copies, which backup mode makes consistent."""

    directory_restore: bool = True
    """`create_volume` puts the content into a directory of the caller's choice."""

    host_bound: bool = True
    """Snapshots can be seen only from the host on which they were made."""

    @abstractmethod
    def instance(self, name: Optional[str]) -> Instance:
        """The instance of that name; ``None`` means this host. `NotFoundError` if there is none."""

    @abstractmethod
    def volumes(self, instance: Instance, selection: VolumeSelection) -> Sequence[Volume]:
        """The volumes that are meant. `NotFoundError` naming all that are unknown."""

    @abstractmethod
    def check_requests(self, requests: Sequence[CreateRequest]) -> None:
        """Raises what can be known before the backup starts: names, tags, space, permissions. Gets all requests that the
        session will make. Changes nothing. `InvalidInputError` for a name that cannot be."""

    @abstractmethod
    def create(self, request: CreateRequest) -> Sequence[Ticket]:
        """Starts the snapshots; one ticket for each volume, in the same order. Need not wait until they are cut."""

    @abstractmethod
    def status(self, ticket: Ticket) -> SnapshotStatus:
        """How far a snapshot is. `NotFoundError` if it does not exist. One that failed is no exception but a state."""

    @abstractmethod
    def find(self, token: str, volumes: Sequence[Volume]) -> Sequence[Ticket]:
        """Everything that was ever created with this token on these volumes and still exists, complete or not."""

    @abstractmethod
    def list(self, mark: str, volumes: Sequence[Volume]) -> Sequence[Ticket]:
        """Everything that carries this mark, whatever its token."""

    @abstractmethod
    def delete(self, ticket: Ticket) -> None:
        """Deletes a snapshot. Refuses what does not carry the token of the ticket."""

    @abstractmethod
    def create_volume(self, request: CreateVolumeRequest) -> RestoredVolume:
        """Makes a volume of a snapshot. `PreconditionError` if the destination is not empty."""

    @abstractmethod
    def delete_volume(self, volume: RestoredVolume) -> None:
        """Deletes a volume that `create_volume` made, and nothing else."""

    def snapshot_name(self, volume: Volume, backup_id: str) -> str:
        """The name for a snapshot: it depends on these two alone, and has the backup id in lower case in it."""
        return f"{volume.id}-{backup_id.lower()}"

    def can_group(self, volumes: Sequence[Volume]) -> bool:
        """Whether one `create` can cut all these volumes at one instant."""
        return False

    def attach(self, volume: RestoredVolume, instance: Instance) -> RestoredVolume:
        """Attaches a volume, so that its file system can be mounted. Nothing to do where its path is known."""
        return volume

    def detach(self, volume: RestoredVolume, instance: Instance) -> None:
        """Detaches a volume."""

    def attached_from(self, instance: Instance, tickets: Sequence[Ticket]) -> Sequence[Optional[Volume]]:
        """For each ticket the volume that was made of that snapshot and is attached now, or ``None``. Only for providers
        without `directory_restore`."""
        raise UnsupportedError(f"{self.name} cannot say of which snapshots the attached volumes were made")

    def after_cut(self, volumes: Sequence[Volume], grouped: bool) -> AfterCut:
        """What is left to do after backup mode, if these volumes are cut by one call (``grouped``) or each by its own."""
        return AfterCut()

    def promote(self, requests: Sequence[CreateRequest], tickets: Sequence[Ticket]) -> Sequence[Ticket]:
        """Makes durable snapshots of what was cut, after backup mode; one ticket for each, to be used from now on. May be
        called again with the same tickets."""
        return tickets

    def secure(self, requests: Sequence[CreateRequest], tickets: Sequence[Ticket]) -> Sequence[Ticket]:
        """Does what was asked for beyond the snapshots themselves, when they are ready. As `promote` otherwise."""
        return tickets

    def check_delete(self, tickets: Sequence[Ticket]) -> None:
        """Raises `PreconditionError` if one of these cannot be deleted now. Changes nothing."""

    def list_volumes(self, mark: str) -> Sequence[RestoredVolume]:
        """The volumes that `create_volume` made for this mark and that are attached to nothing. Not for directories. Their
        attributes also have ``created`` (ISO 8601), without which `Engine.gc` leaves them alone, and ``used`` if they were
        ever attached, with which it does, too."""
        return ()
