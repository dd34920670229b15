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
    call_timeout_s: int
    """Seconds that one call may take; 30 if not given."""
