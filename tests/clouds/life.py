"""The life of a snapshot: asked for, cut, copied, ready; or failed.

Clouds differ in when the point in time is fixed. AWS fixes it before it answers; Google while the snapshot is CREATING,
Azure while it is provisioned, both after the answer. `cut_ms` and `ready_ms` of the settings say how long each part
takes, and the bytes are cloned exactly when the cut happens: what the guest writes between the request and a late cut is
in the snapshot.

A snapshot whose disk is lost before it is ready fails: its bytes were on that disk. That a disk is deleted harms none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from enum import Enum

from .disks import Cut, Disk, DiskError, Store
from .faults import Settings


class Phase(Enum):
    """How far a snapshot is."""

    CREATING = "creating"
    """Asked for; the point in time is not fixed."""
    COPYING = "copying"
    """Cut; needs the source disk until it is copied."""
    READY = "ready"
    """Independent of the source disk."""
    FAILED = "failed"
    """Never usable."""


class Snapshot:
    """The bytes of a snapshot and how far it is. What else a cloud says of it is kept by that cloud."""

    def __init__(self, disk: Disk, cut_ms: int, ready_ms: int, fails: bool) -> None:
        """Of `disk`. The cut is made by `take`, which is the only caller."""
        self.disk = disk
        self.requested = time.time()
        self.cut: Cut | None = None
        self.reason: str | None = None
        self._cut_ms, self._ready_ms, self._fails = cut_ms, ready_ms, fails
        self._dropped = False
        self._changed = threading.Condition()

    @property
    def phase(self) -> Phase:
        """How far it is now."""
        with self._changed:
            if self.reason is not None:
                return Phase.FAILED
            if self.cut is None:
                return Phase.CREATING
            lost_at = self.disk.lost_at
            if lost_at is not None and lost_at < self.ready_at:
                self.reason = "the source disk was lost before the snapshot was complete"
                return Phase.FAILED
            if time.time() < self.ready_at:
                return Phase.COPYING
            if self._fails:
                self.reason = "an internal error occurred while the snapshot was copied"
                return Phase.FAILED
            return Phase.READY

    @property
    def percent(self) -> int:
        """Progress of the copy, 0 to 100; 100 only when ready."""
        phase = self.phase
        if phase is Phase.READY:
            return 100
        if phase is not Phase.COPYING or self.cut is None:
            return 0
        return min(99, int(100 * (time.time() - self.cut.at) * 1000 / max(1, self._ready_ms)))

    @property
    def ready_at(self) -> float:
        """When the copy is complete: seconds since 1970. Only of a snapshot that was cut."""
        assert self.cut is not None
        return self.cut.at + self._ready_ms / 1000

    def wait_cut(self) -> None:
        """Returns when the cut has happened or the snapshot has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self.cut is not None or self.reason is not None)

    def bytes(self) -> Cut:
        """What a new disk can be made of: from the cut on, where the cloud allows that."""
        if self.cut is None or self.phase is Phase.FAILED:
            raise DiskError(self.reason or "the snapshot is not cut yet")
        return self.cut

    def _came(self, cut: Cut | None, reason: str | None) -> bool:
        """Takes the result of the cut; whether somebody still wants it."""
        with self._changed:
            if not self._dropped:
                self.cut, self.reason = cut, reason
                self._changed.notify_all()
            return not self._dropped

    def drop(self, store: Store) -> None:
        """Deletes the bytes, now or as soon as they come."""
        with self._changed:
            self._dropped = True
            if self.reason is None and self.cut is None:
                self.reason = "deleted"
                self._changed.notify_all()
        if self.cut is not None:
            store.drop(self.cut)


def take(store: Store, disks: Sequence[Disk], settings: Settings, *, late: bool) -> list[Snapshot]:
    """Snapshots of these disks, with one cut for all of them.

    `late`: the cut happens `cut_ms` later. Else it happens at once, and the caller answers `cut_ms` later, as a call does
    whose answer means that the cut has happened.
    """
    snapshots = [
        Snapshot(disk, settings.cut_ms, settings.ready_ms, not {disk.name, disk.id}.isdisjoint(settings.fail_after_cut))
        for disk in disks
    ]

    def cut() -> None:
        try:
            cuts = store.cut(disks)
        except (DiskError, OSError) as error:
            for snapshot in snapshots:
                snapshot._came(None, str(error))
            return
        for snapshot, taken in zip(snapshots, cuts, strict=True):
            if not snapshot._came(taken, None):
                store.drop(taken)

    if late and settings.cut_ms:
        timer = threading.Timer(settings.cut_ms / 1000, cut)
        timer.daemon = True
        timer.start()
    else:
        cut()
    return snapshots


def copied(store: Store, source: Snapshot, settings: Settings) -> Snapshot:
    """A copy of a snapshot, to another place or with another key. It needs the source only while it is made."""
    copy = Snapshot(Disk(source.disk.name, source.disk.size, 0), 0, settings.ready_ms, False)
    taken = store.copy(source.bytes())
    copy._came(Cut(taken.path, taken.size, time.time()), None)
    return copy
