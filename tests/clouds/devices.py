"""Names of disks below /dev: device nodes and links, as each cloud shows them to its machines.

They are global to a machine, and several sets of clouds may run on it. So every name is reserved by a lock on a file in
`/dev/.clouds`, next to the names themselves: a test with a /dev of its own has reservations of its own, too.

Invariant: a path that was not made here is never removed or replaced. A reservation tells whose the path is, also after
its owner was killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RESERVATIONS = Path("/dev/.clouds")


class DeviceInUse(Exception):
    """The name below /dev belongs to somebody else."""


@dataclass(frozen=True)
class Name:
    """One path under which a disk is shown. A node has the numbers of the loop device, a link leads to it.

    The kernel puts the name that was mounted into the table of mounts, but `mount` resolves links first: a disk that is
    mounted by a link is listed as `/dev/loop0`, one that is mounted by a node as that node.
    """

    path: str
    node: bool
    to: str | None = None
    """Where a link leads, if not to the loop device."""


def aws_xen(device: str) -> list[Name]:
    """On a Xen instance `/dev/sdf` of the API is `/dev/xvdf`; names that begin with xvd stay as they are.

    https://docs.aws.amazon.com/ebs/latest/userguide/ebs-attaching-volume.html
    """
    return [Name(device.replace("/dev/sd", "/dev/xvd", 1), node=True)]


def aws_nitro(volume_id: str, number: int) -> list[Name]:
    """On a Nitro instance: NVMe devices in the order of attachment, and the volume id in a link.

    https://docs.aws.amazon.com/ebs/latest/userguide/nvme-ebs-volumes.html
    """
    serial = volume_id.replace("-", "")
    return [
        Name(f"/dev/nvme{number}n1", node=True),
        Name(f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{serial}", node=False, to=f"/dev/nvme{number}n1"),
    ]


def gcp(device_name: str) -> list[Name]:
    """The two links of Google's udev rules.

    https://cloud.google.com/compute/docs/disks/disk-symlinks
    """
    return [
        Name(f"/dev/disk/by-id/google-{device_name}", node=False),
        Name(f"/dev/disk/by-id/scsi-0Google_PersistentDisk_{device_name}", node=False),
    ]


def azure(lun: int) -> list[Name]:
    """The link of the Linux agent's udev rules, and that of the newer azure-vm-utils.

    https://learn.microsoft.com/azure/virtual-machines/linux/azure-virtual-machine-utilities
    """
    return [
        Name(f"/dev/disk/azure/scsi1/lun{lun}", node=False),
        Name(f"/dev/disk/azure/data/by-lun/{lun}", node=False),
    ]


def _reservation(path: str) -> Path:
    return RESERVATIONS / path.removeprefix("/dev/").replace("/", "\\")


def _remove(path: str) -> None:
    """Removes a node or link and the directories above it that are empty now."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    parent = Path(path).parent
    while parent != Path("/dev"):
        try:
            parent.rmdir()
        except OSError:
            return
        parent = parent.parent


class Shown:
    """A name that is shown. The lock on its reservation is held until `hide`."""

    def __init__(self, name: Name, device: str, owner: str) -> None:
        """Shows the block device `device` as `name`. `owner` is the directory of the set of clouds."""
        self.name = name
        RESERVATIONS.mkdir(mode=0o755, exist_ok=True)
        self._lock = os.open(_reservation(name.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise DeviceInUse(f"{name.path} belongs to other clouds on this machine") from None
        try:
            if os.path.lexists(name.path):
                # A reservation with content and without a lock is that of an owner that was killed.
                if not os.pread(self._lock, 4096, 0):
                    raise DeviceInUse(f"{name.path} is there already")
                _remove(name.path)
            # The reservation first: what is made is known to be ours at every instant.
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, owner.encode(), 0)
            Path(name.path).parent.mkdir(parents=True, exist_ok=True)
            if name.node:
                os.mknod(name.path, stat.S_IFBLK | 0o660, os.stat(device).st_rdev)
            else:
                os.symlink(name.to or device, name.path)
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        # While it is locked: nobody else can have begun to use it.
        with suppress(FileNotFoundError):
            os.unlink(_reservation(self.name.path))
        os.close(self._lock)

    def hide(self) -> None:
        """Removes the name."""
        _remove(self.name.path)
        self._release()


def sweep(owner: str) -> None:
    """Removes every name of an owner that was killed. One that is just dying still holds its locks: they are awaited."""
    with suppress(FileNotFoundError):
        for reservation in RESERVATIONS.iterdir():
            _sweep_one(reservation, owner)


def _sweep_one(reservation: Path, owner: str) -> None:
    try:
        lock = os.open(reservation, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.pread(lock, 4096, 0).decode() != owner:
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Somebody may have found it dead and taken the name over.
        if os.pread(lock, 4096, 0).decode() == owner:
            _remove("/dev/" + reservation.name.replace("\\", "/"))
            with suppress(FileNotFoundError):
                reservation.unlink()
    finally:
        os.close(lock)
