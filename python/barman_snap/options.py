"""Options of the clouds, for `Engine`. Each is a dictionary; what is left out comes from where every tool of that cloud
looks: environment, configuration files, metadata service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

__all__ = ["AwsOptions", "AzureOptions", "GcpOptions"]


class AwsOptions(TypedDict, total=False):
    """Snapshots on Amazon Web Services. Profile and region are by default those of the bucket."""

    profile: str
    """Profile in the AWS configuration files."""
    region: str
    """Region of the instance and its volumes."""
    lock_mode: str
    """``governance`` or ``compliance``: lock the snapshots when they are complete."""
    lock_cool_off_period: int
    """Hours in which a lock in compliance mode can still be lifted, 1 to 72."""
    lock_duration: int
    """Days for which the snapshots are locked, 1 to 36500."""
    lock_expiration_date: str
    """Until when the snapshots are locked (``YYYY-MM-DDThh:mm:ss.fffZ``)."""
    copy_to: Sequence[str]
    """Regions to copy the snapshots to when they are complete."""
    copy_kms_key_id: str
    """KMS key for the copies."""
    fast_restore_zones: Sequence[str]
    """Availability zones in which fast snapshot restore is enabled for the snapshots when they are complete."""
    volume_type: str
    """Kind of restored volumes (``gp3``, ``io2``, …), if not that of the original."""
    volume_iops: int
    """Operations per second of restored volumes, if not those of the original."""
    volume_throughput: int
    """MiB per second of restored volumes, if not those of the original."""
    volume_kms_key_id: str
    """KMS key of restored volumes, if not that of the snapshot."""
    volume_initialization_rate: int
    """MiB per second, 100 to 300, at which restored volumes are filled from their snapshots."""
    call_timeout_s: int
    """Seconds that one call may take; 30 if not given."""


class GcpOptions(TypedDict, total=False):
    """Snapshots on Google Cloud. Credentials are the application default ones."""

    project: str
    """Project of the instance, its disks and the snapshots."""
    zone: str
    """Zone of the instance."""
    endpoint: str
    """Endpoint of the Compute Engine API."""
    anonymous: bool
    """Use no credentials (for an emulator)."""
    snapshot_project: str
    """Project to store the snapshots in, if it is another one."""
    storage_location: str
    """Where the snapshots are stored: a region or a multi-region."""
    snapshot_type: str
    """``standard`` or ``archive``."""
    kms_key_name: str
    """Cloud KMS key to encrypt the snapshots with."""
    disk_type: str
    """Type of restored disks (``pd-ssd``, ``hyperdisk-balanced``, …), if not that of the original."""
    disk_iops: int
    """Operations per second of restored disks, if not those of the original."""
    disk_throughput: int
    """MiB per second of restored disks, if not those of the original."""
    disk_kms_key: str
    """Cloud KMS key of restored disks, if not that of the original."""
    disk_replica_zones: Sequence[str]
    """The two zones of restored disks that are regional; if not given, those of the original."""
    call_timeout_s: int
    """Seconds that one call may take; 30 if not given."""


class AzureOptions(TypedDict, total=False):
    """Snapshots on Microsoft Azure. The kind of credential is by default that of the storage."""

    subscription_id: str
    """Subscription of the virtual machine, its disks and the snapshots."""
    resource_group: str
    """Resource group of the virtual machine and the snapshots."""
    credential: str
    """Which kind of credential to use: ``azure-cli``, ``managed-identity`` or ``default``."""
    endpoint: str
    """Endpoint of the Resource Manager."""
    snapshot_sku: str
    """Storage of the snapshots: ``Standard_LRS``, ``Standard_ZRS`` or ``Premium_LRS``."""
    disk_encryption_set: str
    """Resource id of the disk encryption set for the snapshots."""
    copy_to: str
    """Region to copy the snapshots to when they are complete."""
    instant_access_minutes: int
    """Minutes, 60 to 300, for which snapshots of Ultra disks and Premium SSD v2 can be used before all is copied."""
    disk_sku: str
    """Kind of restored disks (``Premium_LRS``, ``PremiumV2_LRS``, …), if not that of the original."""
    disk_iops: int
    """Operations per second of restored Ultra disks and Premium SSD v2, if not those of the original."""
    disk_mbps: int
    """MB per second of restored Ultra disks and Premium SSD v2, if not those of the original."""
    disk_tier: str
    """Performance tier of restored Premium SSDs (``P30``, …), if not that of the original."""
    restored_disk_encryption_set: str
    """Resource id of the disk encryption set of restored disks, if not that of the original."""
    call_timeout_s: int
    """Seconds that one call may take; 30 if not given."""
