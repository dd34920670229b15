"""The ``barman-cloud-*`` commands that touch snapshots: backup, backup-delete and restore.

Their catalog is the engine's as well: the same objects at the same keys. So the engine does the whole of it, and what
the other commands (list, show, keep, the WAL ones) then read is what they always read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from barman.clients.cloud_cli import GeneralErrorExit, OperationErrorExit  # type: ignore[import-untyped]
from barman.cloud import CloudBackupCatalog  # type: ignore[import-untyped]

from barman_snap import Engine, Error, InvalidInputError

from . import engines

__all__ = ["backup", "cloud_interface", "delete_backup", "downloader", "restore_interface", "snapshot_interface"]

_OPTIONS = "_barman_snap_options"


class Options:
    """Takes the place of a client of the cloud: only the options that it would have been made of."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def validate_backup_config(self, config: Any) -> None:
        """The engine says itself what it needs."""

    def validate_restore_config(self, config: Any) -> None:
        """As above."""


def _fail(what: str, error: Exception) -> SystemExit:
    """How a command ends: as the stock ones do, with one line, and 4 for what was asked for wrongly."""
    logging.error("%s: %s", what, error)
    wrong = isinstance(error, (InvalidInputError, ValueError))
    ended: SystemExit = GeneralErrorExit() if wrong else OperationErrorExit()
    return ended


def _engine(config: Any, what: str, backup_info: Any = None) -> Engine:
    try:
        return engines.for_command(config, backup_info)
    except (Error, ValueError) as error:
        raise _fail(what, error) from error


def snapshot_interface(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """In place of the function that makes a client of the cloud for a backup."""

    def make(config: Any) -> Any:
        return Options(config) if engines.is_on(config.server_name) else stock(config)

    return make


def backup(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In place of the class that takes a snapshot backup."""

    def choose(
        server_name: str,
        cloud_interface: Any,
        snapshot_interface: Any,
        postgres: Any,
        snapshot_instance: str,
        snapshot_disks: list[str],
        backup_name: Optional[str] = None,
    ) -> Any:
        arguments = (server_name, cloud_interface, snapshot_interface, postgres, snapshot_instance, snapshot_disks, backup_name)
        if isinstance(snapshot_interface, Options):
            return CloudBackup(snapshot_interface.config, cloud_interface, postgres, backup_name)
        return stock(*arguments)

    return choose


class CloudBackup:
    """One run of ``barman-cloud-backup``."""

    def __init__(self, config: Any, cloud_interface: Any, postgres: Any, name: Optional[str]) -> None:
        self.backup_info: Optional[Any] = None
        self._config = config
        self._interface = cloud_interface
        self._postgres = postgres
        self._name = name

    def backup(self) -> None:
        """Takes it; ``backup_info`` is then what is in the catalog."""
        config = self._config
        engine = _engine(config, "Backup failed")
        try:
            for rescue in engine.recover():
                if rescue.action not in ("nothing", "leave_alone"):
                    logging.warning("backup %s was left by its process: %s", rescue.backup_id, rescue.ended)
            session = engine.backup(
                self._postgres.conninfo,
                name=self._name,
                immediate_checkpoint=config.immediate_checkpoint,
                disks=config.snapshot_disks,
                # Of a local provider there is but this host.
                instance=None if engines.command_provider(config) == "local" else config.snapshot_instance,
                tags=dict(config.tags or ()),
            )
            done = session.run()
        except Error as error:
            raise _fail("Backup failed", error) from error
        logging.info("the engine has published backup %s", done.backup_id)
        # As Barman's own reader sees it.
        self.backup_info = CloudBackupCatalog(self._interface, config.server_name).get_backup_info(done.backup_id)


def delete_backup(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In place of the function that deletes one backup, after it was found that it may be deleted."""

    def delete(cloud_interface: Any, catalog: Any, backup_id: str, config: Any, *rest: Any, **named: Any) -> Any:
        known = catalog.get_backup_list().get(backup_id)
        if known is None or not engines.is_ours(known):
            return stock(cloud_interface, catalog, backup_id, config, *rest, **named)
        engine = _engine(config, "Deletion failed", known)
        try:
            # Barman has looked at the minimum, too, but counts backups that have failed.
            least = getattr(config, "minimum_redundancy", 0)
            deletion = engine.delete(backup_id, minimum_redundancy=least, dry_run=config.dry_run)
        except Error as error:
            raise _fail("Deletion failed", error) from error
        if config.dry_run:
            for one in deletion.backups:
                print(f"Skipping deletion of snapshots {[each.name for each in one.snapshots]} due to --dry-run option")
                print(f"Skipping deletion of objects {list(one.keys)} and of backup.info due to --dry-run option")
            if deletion.wal_keys:
                print(f"Skipping deletion of objects {list(deletion.wal_keys)} due to --dry-run option")
            return None
        catalog.remove_backup_from_cache(backup_id)
        for key in deletion.wal_keys:
            catalog.remove_wal_from_cache(key.rpartition("/")[2].partition(".")[0])
        return None

    return delete


def cloud_interface(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """In place of the function that makes the client of the object store: with the options of the command."""

    def make(config: Any) -> Any:
        interface = stock(config)
        setattr(interface, _OPTIONS, config)
        return interface

    return make


def restore_interface(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In place of the function that makes a client of the cloud for a restore."""

    def make(backup_info: Any, config: Any = None) -> Any:
        return Options(config) if engines.is_ours(backup_info) else stock(backup_info, config)

    return make


def downloader(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In place of both classes that restore a backup."""

    def make(cloud_interface: Any, catalog: Any, *rest: Any) -> Any:
        return Downloader(getattr(cloud_interface, _OPTIONS), lambda: stock(cloud_interface, catalog, *rest))

    return make


class Downloader:
    """Restores a backup: ours with the engine, any other as it always was."""

    def __init__(self, config: Any, stock: Callable[[], Any]) -> None:
        self._config = config
        self._stock = stock

    def download_backup(self, backup_info: Any, destination_dir: str, *rest: Any) -> Any:
        """Where the volumes are attached and mounted already, as stock wants it, they are used; else the engine makes them."""
        if not engines.is_ours(backup_info):
            return self._stock().download_backup(backup_info, destination_dir, *rest)
        config = self._config
        engine = _engine(config, "Restore failed", backup_info)
        try:
            engine.restore(
                backup_info.backup_id,
                destination_dir,
                tablespaces=_tablespaces(rest),
                recovery_instance=config.snapshot_recovery_instance,
                # A local backup has no volumes that somebody could have mounted.
                mounted=backup_info.snapshots_info is not None and Path(destination_dir, "PG_VERSION").exists(),
            )
        except Error as error:
            raise _fail("Restore failed", error) from error
        return None


def _tablespaces(rest: tuple[Any, ...]) -> dict[str, str]:
    """The argument after the directory is the instance, or for a backup without snapshots_info the tablespaces."""
    return dict(rest[0]) if rest and isinstance(rest[0], dict) else {}
