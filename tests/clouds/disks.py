"""Disks with real bytes: block devices that can be attached, written to, cut at one instant, and lost.

All disks of a store are ranges of one sparse file, the *array*, on a file system with reflinks that the store makes for
itself. An attached disk is a loop device over its range. A cut is a clone (`FICLONERANGE`) of the range into a file of
its own; a new disk is a clone of such a file into a new range. Both take milliseconds and no space.

What is in a cut, and what is not
---------------------------------
A real disk knows only what the machine has sent to it. What the machine still holds back is lost in a crash, and is not
in a snapshot; PostgreSQL's fsync is what makes it go to the disk. The same holds here, because each layer has its
counterpart:

* The page cache of the guest's file system, and the page cache of the loop device itself (ext4 keeps its metadata
  there; `BLKFLSBUF` would write it), are memory of the *machine*. They are not flushed for a cut. A cut without backup
  mode is therefore crash consistent and nothing better.
* The array is the *medium*. A request that the loop device has completed is in it: by direct I/O on the medium itself,
  or else in the page cache of the array, which the clone writes out before it shares any block.
* Requests in flight are in the cut or not, each as a whole, as with a real disk.

A cut happens at one instant. The kernel takes the array's lock for the clone, waits for direct writes that have begun,
and lets new ones wait until it is done (XFS: `IOLOCK` and `XFS_IREMAPPING`; btrfs: the inode's lock). That all disks lie
in one file makes the instant the same for several disks: the whole array is cloned once, and the ranges are taken from
that clone afterwards. This is what AWS promises for `CreateSnapshots`, and separate image files could not keep.

The store flushes nothing to the real disk of the machine for a cut: it does not outlive the machine.

Cleaning up
-----------
Invariant: everything made outside of the store's directory (mount, loop devices, names below /dev) can be found by
`clean` from that directory alone, also when the process was killed at any instant: the mount lies below it, the loop
devices have the array as backing file, the names are reserved in its name (`devices`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import devices

GIB = 1 << 30
SECTOR = 4096
"""Bytes of a sector of every disk."""

# _IOW(0x94, 13, struct file_clone_range), linux/fs.h
_FICLONERANGE = 0x4020940D


class DiskError(Exception):
    """Something that cannot be done with a disk."""


class DiskBusy(DiskError):
    """The disk is mounted, or opened exclusively."""


def run(*command: str | Path) -> str:
    """Runs a program that has to succeed; its output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise DiskError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def clone_range(source: int, source_offset: int, length: int, target: int, target_offset: int) -> None:
    """Lets a range of one open file share the blocks of a range of another."""
    fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, source_offset, length, target_offset))


@dataclass(eq=False)
class Disk:
    """A disk. Its name is for messages and for the settings of the tests; two may have the same."""

    name: str
    size: int
    offset: int
    id: str = ""
    """What its cloud calls it, if that is not the name."""
    loop: str | None = None
    shown: list[devices.Shown] = field(default_factory=list)
    gone: bool = False
    lost_at: float | None = None
    """When it was lost, if it was: seconds since 1970."""

    @property
    def attached(self) -> bool:
        """Whether some machine has it."""
        return self.loop is not None

    @property
    def paths(self) -> list[str]:
        """Where it is shown, the most telling path first."""
        return [shown.name.path for shown in self.shown]


@dataclass(frozen=True)
class Cut:
    """The bytes of a disk at one instant."""

    path: Path
    size: int
    at: float


class Store:
    """All disks and cuts of one set of clouds. Its methods may be called from any thread."""

    def __init__(self, root: Path, size: int = 256 * GIB) -> None:
        """Makes the file system below `root`. `size` limits what all disks and cuts can hold; it is sparse."""
        self.root = root.resolve()
        self._mount = self.root / "store"
        self._lock = threading.RLock()
        self._end = 0
        self._count = 0
        self.disks: list[Disk] = []
        try:
            self._make(size)
        except BaseException:
            clean(self.root)
            raise
        (self._mount / "cuts").mkdir()
        self._array = os.open(self._mount / "array", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _make(self, size: int) -> None:
        self._mount.mkdir(parents=True, exist_ok=True)
        image = self.root / "store.img"
        with image.open("wb") as file:
            file.truncate(size)
        try:
            # No more log than it needs, and no discard of a file that is empty: both take time only.
            run("mkfs.xfs", "-q", "-f", "-K", "-l", "size=64m", "-m", "reflink=1", image)
        except (DiskError, FileNotFoundError):
            run("mkfs.btrfs", "-q", "-f", "-K", image)
        run("mount", "-o", "loop,noatime", image, self._mount)

    def create(self, name: str, size: int, source: Cut | None = None) -> Disk:
        """A new disk of `size` bytes, empty or with the bytes of a cut. What is beyond the cut is zero."""
        if size <= 0 or size % (1 << 20):
            raise DiskError(f"{name}: a disk has whole mebibytes, not {size} bytes")
        with self._lock:
            # A range is never used again: whoever still has an old disk open reads and writes nobody's bytes.
            offset, self._end = self._end, self._end + -(-size // GIB) * GIB
            os.ftruncate(self._array, self._end)
            disk = Disk(name, size, offset)
            if source is not None:
                if source.size > size:
                    raise DiskError(f"{name}: {size} bytes are fewer than the snapshot's {source.size}")
                with source.path.open("rb") as file:
                    clone_range(file.fileno(), 0, source.size, self._array, offset)
            self.disks.append(disk)
            return disk

    def attach(self, disk: Disk, names: Sequence[devices.Name]) -> list[str]:
        """Makes a block device of the disk and shows it under these names; the paths."""
        with self._lock:
            if disk.gone or disk.attached:
                raise DiskError(f"{disk.name} is {'gone' if disk.gone else 'attached already'}")
            disk.loop = self._loop(disk)
            try:
                for name in names:
                    disk.shown.append(devices.Shown(name, disk.loop, str(self.root)))
            except BaseException:
                self._take_away(disk)
                raise
            return disk.paths

    def _loop(self, disk: Disk) -> str:
        # Left to itself, the kernel takes what the array needs for direct I/O, and that is more from the first clone on.
        # A disk whose sectors have grown since its file system was made cannot be mounted.
        command = ["losetup", "-f", "--show", "-b", str(SECTOR), "-o", str(disk.offset), "--sizelimit", str(disk.size)]
        array = str(self._mount / "array")
        try:
            return run(*command, "--direct-io=on", array)
        except DiskError:
            # The medium below wants larger blocks. With a page cache it is slower, and a cut is the same.
            return run(*command, array)

    def detach(self, disk: Disk, *, force: bool = False) -> None:
        """Takes the disk from its machine. `DiskBusy` while it is mounted, unless forced: who forgets to unmount shall
        notice."""
        with self._lock:
            if disk.loop is None:
                return
            if force:
                self._take_away(disk)
                return
            try:
                # For a block device this means: nobody else has claimed it, in whatever mount namespace.
                os.close(os.open(disk.loop, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise DiskBusy(f"{disk.name} is still mounted from {disk.paths or disk.loop}") from None
            self._take_away(disk)

    def _take_away(self, disk: Disk) -> None:
        while disk.shown:
            disk.shown.pop().hide()
        if disk.loop is not None:
            # While it is open somewhere it goes with the last user.
            run("losetup", "-d", disk.loop)
            disk.loop = None

    def lose(self, disk: Disk) -> None:
        """The disk fails with all its bytes, whether it is in use or not. Snapshots that are not ready fail with it."""
        with self._lock:
            if not disk.gone:
                disk.lost_at = time.time()
                self._remove(disk)

    def delete(self, disk: Disk) -> None:
        """The disk is deleted in order. Snapshots that are under way are completed."""
        with self._lock:
            if disk.attached:
                raise DiskBusy(f"{disk.name} is attached")
            if not disk.gone:
                self._remove(disk)

    def _remove(self, disk: Disk) -> None:
        disk.gone = True
        self.disks.remove(disk)
        self._take_away(disk)
        run("fallocate", "--punch-hole", "-o", str(disk.offset), "-l", str(disk.size), self._mount / "array")

    def cut(self, disks: Sequence[Disk]) -> list[Cut]:
        """The bytes of these disks, all at one instant."""
        with self._lock:
            if gone := [disk.name for disk in disks if disk.gone]:
                raise DiskError(f"gone: {', '.join(gone)}")
            if len(disks) == 1:
                return [self._cut(disks[0], self._array)]
            whole = self._mount / "whole"
            with whole.open("w+b") as file:
                whole.unlink()
                file.truncate(self._end)
                clone_range(self._array, 0, 0, file.fileno(), 0)
                return [self._cut(disk, file.fileno()) for disk in disks]

    def _cut(self, disk: Disk, source: int) -> Cut:
        self._count += 1
        path = self._mount / "cuts" / str(self._count)
        with path.open("xb") as file:
            file.truncate(disk.size)
            clone_range(source, disk.offset, disk.size, file.fileno(), 0)
        return Cut(path, disk.size, time.time())

    def copy(self, cut: Cut) -> Cut:
        """The same bytes once more: a copy that outlives the original."""
        with self._lock:
            self._count += 1
            path = self._mount / "cuts" / str(self._count)
        with cut.path.open("rb") as source, path.open("xb") as target:
            target.truncate(cut.size)
            clone_range(source.fileno(), 0, 0, target.fileno(), 0)
        return Cut(path, cut.size, cut.at)

    def drop(self, cut: Cut) -> None:
        """Removes a cut. Disks that were made of it keep their bytes."""
        cut.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes everything, also what is in use."""
        with self._lock:
            for disk in self.disks:
                with suppress(DiskError):
                    self._take_away(disk)
            os.close(self._array)
        clean(self.root)


def clean(root: Path) -> None:
    """Removes what a store below `root` has made outside of it, and its bytes. Its process must have ended.

    File systems that a test has left mounted on its disks are unmounted, lazily: a server that still runs there loses
    its disk, as it would in a cloud that was switched off.
    """
    root = root.resolve()
    array, image = str(root / "store" / "array"), str(root / "store.img")
    devices.sweep(str(root))
    loops = [line.split(" ", 1)[0] for line in _loops() if line.split(" ", 1)[1] in (array, array + " (deleted)")]
    numbers = {_numbers(loop) for loop in loops}
    for number, point in reversed(_mounts()):
        if number in numbers:
            _try("umount", "-l", point)
    for loop in loops:
        _try("losetup", "-d", loop)
    if os.path.ismount(root / "store"):
        if not _try("umount", str(root / "store")):
            _try("umount", "-l", str(root / "store"))
    # Had the process died between the two halves of `mount -o loop`, its device would be left.
    for line in _loops():
        if line.split(" ", 1)[1] == image:
            _try("losetup", "-d", line.split(" ", 1)[0])
    with suppress(FileNotFoundError):
        (root / "store.img").unlink()
    with suppress(OSError):
        (root / "store").rmdir()


def _loops() -> list[str]:
    """`DEVICE FILE` of every loop device in use."""
    out = run("losetup", "-l", "-n", "-O", "NAME,BACK-FILE")
    return [" ".join(line.split(None, 1)) for line in out.splitlines() if len(line.split(None, 1)) == 2]


def _numbers(device: str) -> str:
    number = os.stat(device).st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


def _mounts() -> list[tuple[str, str]]:
    """`major:minor` and mount point of every mount, in the order of mounting."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # Blanks in a path are written as \040.
    return [(line.split()[2], line.split()[4].encode().decode("unicode_escape")) for line in lines]


def _try(*command: str) -> bool:
    with suppress(DiskError):
        run(*command)
        return True
    return False
