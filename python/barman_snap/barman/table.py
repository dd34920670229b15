"""The one table of what is replaced in Barman, and the versions for which that has been tested.

Nothing else in Barman is touched. A row is a name in a module as its callers look it up, and what takes its place. The
invariant: a row is carried out only if the installed Barman is of a version in `VERSIONS` and has that name with the
parameters that are written here; otherwise nothing is, and the command ends with one line.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Optional

__all__ = ["ROWS", "VERSIONS", "Row", "Unsuitable", "apply", "check_version", "faults", "modules"]

VERSIONS = ("3.12.1", "3.13.3", "3.19.1")


class Unsuitable(Exception):
    """The installed Barman is not one that the adapter knows. The message is one line."""


@dataclass(frozen=True)
class Row:
    """One name that is replaced."""

    module: str
    """The module of Barman in which its callers look it up."""

    name: str
    """The name; with a dot, of a method."""

    parameters: tuple[str, ...]
    """Its parameters, of which every version must have these, first and in this order."""

    replacement: str
    """``module:function`` in this package: called with what was there, it returns what takes its place."""

    why: str
    """What it is for, in a few words."""

    versions: tuple[str, ...] = VERSIONS
    """The versions that need it."""


_CLOUD = "barman.clients."
ROWS = (
    Row(
        _CLOUD + "cloud_backup", "get_snapshot_interface", ("config",), "cloud:snapshot_interface",
        "carries the options of the command to the next one",
    ),
    Row(
        _CLOUD + "cloud_backup", "CloudBackupSnapshot",
        ("server_name", "cloud_interface", "snapshot_interface", "postgres", "snapshot_instance", "snapshot_disks", "backup_name"),
        "cloud:backup", "takes the backup with the engine",
    ),
    Row(
        _CLOUD + "cloud_backup_delete", "_delete_backup", ("cloud_interface", "catalog", "backup_id", "config"),
        "cloud:delete_backup", "lets the engine delete what it has made",
    ),
    Row(
        _CLOUD + "cloud_restore", "get_cloud_interface", ("config",), "cloud:cloud_interface",
        "carries the options of the command to the next ones",
    ),
    Row(
        _CLOUD + "cloud_restore", "get_snapshot_interface_from_backup_info", ("backup_info", "config"),
        "cloud:restore_interface", "needs no client of the cloud for a backup of the engine",
    ),
    Row(
        _CLOUD + "cloud_restore", "CloudBackupDownloaderSnapshot", ("cloud_interface", "catalog", "snapshot_interface"),
        "cloud:downloader", "restores with the engine, to volumes that it makes",
    ),
    Row(
        _CLOUD + "cloud_restore", "CloudBackupDownloaderObjectStore", ("cloud_interface", "catalog"),
        "cloud:downloader", "the same for a local backup, which has no snapshots_info",
    ),
    Row(
        "barman.backup", "SnapshotBackupExecutor", ("backup_manager",), "server:executor",
        "checks and takes the backup with the engine; knows the provider local",
    ),
    Row(
        "barman.backup", "BackupManager.delete_backup_data", ("self", "backup"), "server:delete_backup_data",
        "lets the engine delete the snapshots that it has taken",
    ),
    Row(
        "barman.backup", "recovery_executor_factory", ("backup_manager",), "recovery:executor_factory",
        "restores with the engine, which stock cannot finish",
    ),
    Row(
        "barman.infofile", "FieldListFile.load", ("self", "filename", "file_object"), "fields:load",
        "reads past the field encryption, which is younger", ("3.12.1", "3.13.3"),
    ),
)  # fmt: skip


def modules() -> frozenset[str]:
    """The modules in which something is replaced."""
    return frozenset(row.module for row in ROWS)


def check_version() -> str:
    """The version of the installed Barman. `Unsuitable` if it is none of `VERSIONS`, or there is none."""
    try:
        version = metadata.version("barman")
    except metadata.PackageNotFoundError:
        raise Unsuitable("Barman is not installed in this Python environment") from None
    if version not in VERSIONS:
        known = " and ".join((", ".join(VERSIONS[:-1]), VERSIONS[-1]))
        raise Unsuitable(f"the adapter knows Barman {known}, and this is {version}: install one of them, or set BARMAN_SNAP=off")
    return version


def apply(module: ModuleType) -> None:
    """Replaces what the table names in a module that was just imported. `Unsuitable` if it is not as it should be."""
    rows = [row for row in ROWS if row.module == module.__name__]
    if any(row.versions == VERSIONS for row in rows):
        version = check_version()
    else:
        # Read by all commands, also those for WAL, which are none of the adapter's business whatever the version.
        version = metadata.version("barman")
    rows = [row for row in rows if version in row.versions]
    wrong = faults(module, rows)
    if wrong:
        raise Unsuitable(f"this Barman is not what the adapter expects: {wrong[0]}")
    for row in rows:
        holder, name = _place(module, row)
        setattr(holder, name, _replacement(row)(getattr(holder, name)))


def faults(module: ModuleType, rows: list[Row]) -> list[str]:
    """What is missing in a module, or is not as the table says."""
    found = (_fault(module, row) for row in rows)
    return [fault for fault in found if fault is not None]


def _fault(module: ModuleType, row: Row) -> Optional[str]:
    try:
        holder, name = _place(module, row)
        parameters = tuple(inspect.signature(getattr(holder, name)).parameters)
    except AttributeError:
        return f"{row.module}.{row.name} does not exist"
    if parameters[: len(row.parameters)] != row.parameters:
        return f"{row.module}.{row.name} has the parameters {', '.join(parameters)}"
    return None


def _place(module: ModuleType, row: Row) -> tuple[Any, str]:
    *path, name = row.name.split(".")
    holder: Any = module
    for part in path:
        holder = getattr(holder, part)
    return holder, name


def _replacement(row: Row) -> Callable[[Any], Any]:
    module, _, function = row.replacement.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    return found
