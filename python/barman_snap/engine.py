"""One server in one catalog, and what can be done with its backups."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Union

from . import _native
from ._async import twin
from ._bridge import Bridge
from .events import Event, event_of
from .exceptions import InvalidInputError
from .options import AwsOptions, AzureOptions, GcpOptions
from .provider import SnapshotProvider
from .results import CatalogEntry, CheckReport, Deletion, Garbage, Listing, Proof, Rescue, Restored, RestorePlan
from .session import PendingBackup, Session

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Engine"]

_Path = Union[str, "os.PathLike[str]"]
_Duration = Union[timedelta, float]
_OnProgress = Callable[[Event], object]
# `Engine` has a method of this name.
_List = list


def _milliseconds(duration: Optional[_Duration]) -> Optional[int]:
    if duration is None:
        return None
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not seconds >= 0:
        raise InvalidInputError(f"not a duration: {duration!r}")
    return round(seconds * 1000)


def _path(path: Optional[_Path]) -> Optional[str]:
    return None if path is None else os.fspath(path)


def _time(time: Union[str, datetime, None]) -> Optional[str]:
    if not isinstance(time, datetime):
        return time
    if time.utcoffset() is None:
        raise InvalidInputError(
            f"target_time has no zone: {time}", hint="time.astimezone() gives it that of this machine", operation="restore"
        )
    return time.isoformat(" ")


def _listener(on_progress: Optional[_OnProgress]) -> Optional[Callable[[dict[str, Any]], object]]:
    return None if on_progress is None else lambda data: on_progress(event_of(data))


class Engine(_native.Engine):
    """One server in one catalog, and what can be done with its backups.

    It may be used from several threads at once. Every method releases the GIL while it works, raises an `Error` when it
    fails, and has a twin with ``_async`` at the end of its name for ``asyncio``. Ctrl-C cancels what is running, cleans up,
    and raises ``KeyboardInterrupt``; a second one does not wait. An engine does not survive ``os.fork``: in the child, every
    call raises `PreconditionError`. Paths are ``str`` or ``os.PathLike``; durations ``timedelta`` or seconds.

    Args:
        url: Where the catalog is: a directory, ``file://``, ``s3://``, ``gs://`` or Azure's ``https://``. Nothing of it needs
            to exist yet.
        server: The server in it.
        endpoint_url: Endpoint of an S3-compatible store.
        aws_profile: Profile in the AWS configuration files.
        aws_region: Region of the bucket.
        read_timeout: How long to wait for an answer of the store.
        addressing_style: How a bucket is named in requests.
        azure_credential: ``azure-cli``, ``managed-identity`` or ``default``.
        snapshot_provider: What takes the snapshots: ``local``, ``aws``, ``gcp``, ``azure``, or a `SnapshotProvider`.
        snapshot_method: How local snapshots are taken: ``auto``, ``btrfs``, ``zfs``, ``reflink`` or ``copy``.
        snapshot_directory: Directory for local snapshots.
        aws: Options for snapshots on Amazon Web Services.
        gcp: Options for snapshots on Google Cloud.
        azure: Options for snapshots on Microsoft Azure.
        host_description: A file that describes the host with the disks, when it is not this one.
        cut_timeout: How long snapshots may take to be cut, in backup mode; without it, as long as it takes.
        ready_timeout: How long snapshots may take to be ready; without it, as long as it takes.
        wal_timeout: How long the archiver may take for the last segment.
    """

    def __new__(
        cls,
        url: _Path,
        server: str,
        *,
        endpoint_url: Optional[str] = None,
        aws_profile: Optional[str] = None,
        aws_region: Optional[str] = None,
        read_timeout: Optional[_Duration] = None,
        addressing_style: Literal["auto", "virtual", "path"] = "auto",
        azure_credential: Optional[Literal["azure-cli", "managed-identity", "default"]] = None,
        snapshot_provider: Union[str, SnapshotProvider] = "local",
        snapshot_method: str = "auto",
        snapshot_directory: Optional[_Path] = None,
        aws: Optional[AwsOptions] = None,
        gcp: Optional[GcpOptions] = None,
        azure: Optional[AzureOptions] = None,
        host_description: Optional[_Path] = None,
        cut_timeout: Optional[_Duration] = None,
        ready_timeout: Optional[_Duration] = None,
        wal_timeout: Optional[_Duration] = None,
    ) -> Self:
        own = isinstance(snapshot_provider, SnapshotProvider)
        options = {
            "endpoint_url": endpoint_url,
            "aws_profile": aws_profile,
            "aws_region": aws_region,
            "read_timeout_ms": _milliseconds(read_timeout),
            "addressing_style": addressing_style,
            "azure_credential": azure_credential,
            "snapshot_provider": None if own else snapshot_provider,
            "snapshot_method": snapshot_method,
            "snapshot_directory": _path(snapshot_directory),
            "aws": dict(aws or {}),
            "gcp": dict(gcp or {}),
            "azure": dict(azure or {}),
            "host_description": _path(host_description),
            "cut_timeout_ms": _milliseconds(cut_timeout),
            "ready_timeout_ms": _milliseconds(ready_timeout),
            "wal_timeout_ms": _milliseconds(wal_timeout),
        }
        bridge = Bridge(snapshot_provider) if isinstance(snapshot_provider, SnapshotProvider) else None
        return super().__new__(cls, url, server, options, bridge)

    def check(
        self,
        dsn: Optional[str] = None,
        *,
        disks: Sequence[_Path] = (),
        exclude_tablespaces: Sequence[str] = (),
        instance: Optional[str] = None,
        wal_external: bool = False,
        tags: Optional[Mapping[str, str]] = None,
        cancel: Optional[_native.CancelToken] = None,
    ) -> CheckReport:
        """Looks at everything that a backup needs, and tells each thing in a line of its own. The arguments are those of
        `backup`. What is wrong is no exception: look at the report's ``ok``."""
        options = {
            "snapshot_disks": [os.fspath(disk) for disk in disks],
            "exclude_tablespaces": list(exclude_tablespaces),
            "snapshot_instance": instance,
            "wal_external": wal_external,
            "tags": dict(tags or {}),
        }
        return CheckReport.from_dict(self._check(dsn, options, cancel))

    def backup(
        self,
        dsn: Optional[str] = None,
        *,
        name: Optional[str] = None,
        immediate_checkpoint: bool = False,
        disks: Sequence[_Path] = (),
        exclude_tablespaces: Sequence[str] = (),
        instance: Optional[str] = None,
        consistency: Literal["auto", "group", "independent"] = "auto",
        wal_external: bool = False,
        tags: Optional[Mapping[str, str]] = None,
        new_system_id: Optional[str] = None,
        backup_id: Optional[str] = None,
        on_progress: Optional[_OnProgress] = None,
    ) -> Session:
        """Plans a backup, claims its id, and returns the session that takes it; nothing else has been done then::

            backup = engine.backup(dsn).run()

            with engine.backup(dsn) as session:
                for event in session.events():
                    print(event)

        Args:
            dsn: A libpq connection string or URI, the name of a database, or ``None`` for what the ``PG*`` variables say.
            name: A name for the backup.
            immediate_checkpoint: Ask PostgreSQL for an immediate checkpoint.
            disks: The volumes; without them, those that hold the cluster are found.
            exclude_tablespaces: Names of tablespaces that are left out: they need no volume, and are restored empty.
            instance: The instance with the volumes; without it, this host.
            consistency: Whether all volumes are cut at one instant by one call: where it is possible, always, or never.
            wal_external: Another tool keeps the WAL; publish without a look at it.
            tags: Tags for the snapshots.
            new_system_id: The system identifier of the cluster, if it has replaced the one whose catalog this was.
            backup_id: The id, for a caller with a catalog of its own that has given it already; ``ConflictError`` if it is
                taken. Otherwise the engine chooses.
            on_progress: Called with each event, on the thread that drives the session. If it raises, the backup is cancelled
                and undone, and its exception comes out of what drives the session.
        """
        options = {
            "name": name,
            "immediate_checkpoint": immediate_checkpoint,
            "snapshot_disks": [os.fspath(disk) for disk in disks],
            "exclude_tablespaces": list(exclude_tablespaces),
            "snapshot_instance": instance,
            "consistency": consistency,
            "wal_external": wal_external,
            "tags": dict(tags or {}),
            "new_system_id": new_system_id,
            "backup_id": backup_id,
        }
        return Session(self, dsn, options, on_progress)

    def backup_async(
        self,
        dsn: Optional[str] = None,
        *,
        name: Optional[str] = None,
        immediate_checkpoint: bool = False,
        disks: Sequence[_Path] = (),
        exclude_tablespaces: Sequence[str] = (),
        instance: Optional[str] = None,
        consistency: Literal["auto", "group", "independent"] = "auto",
        wal_external: bool = False,
        tags: Optional[Mapping[str, str]] = None,
        new_system_id: Optional[str] = None,
        backup_id: Optional[str] = None,
        on_progress: Optional[_OnProgress] = None,
    ) -> PendingBackup:
        """As `backup`; awaited, it takes the whole backup, and as an asynchronous context manager it gives its session::

            backup = await engine.backup_async(dsn)

            async with engine.backup_async(dsn) as session:
                async for event in session.events_async():
                    print(event)

        ``on_progress`` is called on the event loop. A task that is cancelled cancels the backup and waits until it is undone.
        """
        options = {
            "name": name,
            "immediate_checkpoint": immediate_checkpoint,
            "snapshot_disks": [os.fspath(disk) for disk in disks],
            "exclude_tablespaces": list(exclude_tablespaces),
            "snapshot_instance": instance,
            "consistency": consistency,
            "wal_external": wal_external,
            "tags": dict(tags or {}),
            "new_system_id": new_system_id,
            "backup_id": backup_id,
        }
        return PendingBackup(
            lambda listener, cancel: Session(self, dsn, options, listener, cancel), on_progress
        )

    def list(self) -> Listing:
        """All that is in the catalog."""
        return Listing.from_dict(self._list())

    def show(self, backup: str) -> CatalogEntry:
        """One backup with its ``proofs``: an id, a name, ``first`` or ``last``."""
        return CatalogEntry.from_dict(self._show(backup))

    def keep(self, backup: str, target: Optional[Literal["full", "standalone"]] = None) -> None:
        """Keeps a backup beyond every retention policy; without a target, releases it."""
        self._keep(backup, target)

    def delete(
        self,
        backup: Optional[str] = None,
        *,
        retention_policy: Optional[str] = None,
        minimum_redundancy: int = 0,
        dry_run: bool = False,
    ) -> Deletion:
        """Deletes a backup, or those that a policy (``REDUNDANCY 3``, ``RECOVERY WINDOW OF 4 WEEKS``) does not need, and
        says what; with ``dry_run``, what it would delete."""
        options = {
            "backup": backup,
            "retention_policy": retention_policy,
            "minimum_redundancy": minimum_redundancy,
            "dry_run": dry_run,
        }
        return Deletion.from_dict(self._delete(options))

    def restore(
        self,
        backup: str,
        target_dir: _Path,
        *,
        tablespaces: Optional[Mapping[str, _Path]] = None,
        waldir: Optional[_Path] = None,
        in_place: bool = False,
        target_time: Union[str, datetime, None] = None,
        target_lsn: Optional[str] = None,
        target_xid: Optional[int] = None,
        target_name: Optional[str] = None,
        target_immediate: bool = False,
        target_tli: Union[str, int, None] = None,
        target_exclusive: bool = False,
        target_action: Optional[Literal["promote", "pause", "shutdown"]] = None,
        restore_command: Optional[str] = None,
        wal_restore_program: Optional[Sequence[str]] = None,
        clone: bool = False,
        replace: bool = False,
        standby: bool = False,
        recovery_instance: Optional[str] = None,
        mounted: bool = False,
        on_progress: Optional[_OnProgress] = None,
        cancel: Optional[_native.CancelToken] = None,
    ) -> Restored:
        """Restores a backup to a data directory, ready to be started.

        Args:
            backup: An id, a name, ``first``, ``last``, or ``auto`` for the one that suits the target.
            target_dir: The new data directory, absent or empty.
            tablespaces: Where tablespaces go that do not go where they were: name or old directory, and new directory.
            waldir: Where the WAL goes, absent or empty; ``pg_wal`` is a link to it. In place it stays where it was.
            in_place: Replace what is in the target directory; it is kept under another name.
            target_time: Recover up to this time. A ``datetime`` must have a zone; text without one is local time.
            target_lsn: Recover up to this WAL position.
            target_xid: Recover up to this transaction.
            target_name: Recover up to this restore point.
            target_immediate: Recover only as far as consistency.
            target_tli: Recover along this timeline: a number, ``current`` or ``latest``.
            target_exclusive: Stop just before the target rather than just after.
            target_action: What PostgreSQL does at the target.
            restore_command: The ``restore_command`` to write, as it is.
            wal_restore_program: The words before ``wal-restore [--new-tablespaces inside] URL SERVER %f %p`` in the
                ``restore_command`` otherwise; by default this Python with this package.
            clone: The server lives beside the original: it archives nothing, and no background worker of it reaches out.
                Without any of ``clone``, ``replace`` and ``standby``: a clone if the original is seen to run on this host,
                else a replacement.
            replace: The server takes the place of the original.
            standby: The server follows another one.
            recovery_instance: Of a provider that restores to devices: the instance that volumes are attached to, which is
                this host.
            mounted: The volumes have been made of the snapshots, attached and mounted already.
            on_progress: Called with each event. If it raises, the restore is cancelled and what it made is removed.
            cancel: Cancels it, from another thread.
        """
        options = self._restore_options(
            tablespaces, waldir, in_place, target_time, target_lsn, target_xid, target_name, target_immediate, target_tli,
            target_exclusive, target_action, restore_command, wal_restore_program, clone, replace, standby,
            recovery_instance, mounted,
        )  # fmt: skip
        return Restored.from_dict(self._restore(backup, target_dir, options, cancel, _listener(on_progress)))

    def plan_restore(
        self,
        backup: str,
        target_dir: _Path,
        *,
        tablespaces: Optional[Mapping[str, _Path]] = None,
        waldir: Optional[_Path] = None,
        in_place: bool = False,
        target_time: Union[str, datetime, None] = None,
        target_lsn: Optional[str] = None,
        target_xid: Optional[int] = None,
        target_name: Optional[str] = None,
        target_immediate: bool = False,
        target_tli: Union[str, int, None] = None,
        target_exclusive: bool = False,
        target_action: Optional[Literal["promote", "pause", "shutdown"]] = None,
        restore_command: Optional[str] = None,
        wal_restore_program: Optional[Sequence[str]] = None,
        clone: bool = False,
        replace: bool = False,
        standby: bool = False,
        recovery_instance: Optional[str] = None,
        mounted: bool = False,
    ) -> RestorePlan:
        """What `restore` would do with these arguments; changes nothing. Every refusal comes from here."""
        options = self._restore_options(
            tablespaces, waldir, in_place, target_time, target_lsn, target_xid, target_name, target_immediate, target_tli,
            target_exclusive, target_action, restore_command, wal_restore_program, clone, replace, standby,
            recovery_instance, mounted,
        )  # fmt: skip
        plan = self._restore(backup, target_dir, {**options, "dry_run": True}, None, None)
        return RestorePlan.from_dict(plan)

    def _restore_options(
        self,
        tablespaces: Optional[Mapping[str, _Path]],
        waldir: Optional[_Path],
        in_place: bool,
        target_time: Union[str, datetime, None],
        target_lsn: Optional[str],
        target_xid: Optional[int],
        target_name: Optional[str],
        target_immediate: bool,
        target_tli: Union[str, int, None],
        target_exclusive: bool,
        target_action: Optional[str],
        restore_command: Optional[str],
        wal_restore_program: Optional[Sequence[str]],
        clone: bool,
        replace: bool,
        standby: bool,
        recovery_instance: Optional[str],
        mounted: bool,
    ) -> dict[str, Any]:
        return {
            "tablespaces": {name: os.fspath(place) for name, place in (tablespaces or {}).items()},
            "waldir": None if waldir is None else os.fspath(waldir),
            "in_place": in_place,
            "target_time": _time(target_time),
            "target_lsn": target_lsn,
            "target_xid": target_xid,
            "target_name": target_name,
            "target_immediate": target_immediate,
            "target_tli": None if target_tli is None else str(target_tli),
            "target_exclusive": target_exclusive,
            "target_action": target_action,
            "restore_command": restore_command,
            "wal_restore_program": self._wal_restore_program(wal_restore_program),
            "clone": clone,
            "replace": replace,
            "standby": standby,
            "snapshot_recovery_instance": recovery_instance,
            "mounted": mounted,
        }

    def verify(
        self,
        backup: str = "last",
        *,
        work_dir: Optional[_Path] = None,
        pg_bin_dir: Optional[_Path] = None,
        sql: Sequence[str] = (),
        sql_database: str = "postgres",
        all_wal: bool = False,
        target_tli: Union[str, int, None] = None,
        recovery_instance: Optional[str] = None,
        without: Sequence[str] = (),
        timeout: Optional[_Duration] = None,
        wal_restore_program: Optional[Sequence[str]] = None,
        on_progress: Optional[_OnProgress] = None,
        cancel: Optional[_native.CancelToken] = None,
    ) -> Proof:
        """Restores a backup to a throw-away place, starts it, looks at every page, and records the proof in the catalog. A
        backup that was found bad is no exception: look at the proof's ``passed``.

        Args:
            backup: An id, a name, ``first`` or ``last``.
            work_dir: Directory for the throw-away server; without it, beside the snapshot.
            pg_bin_dir: Directory with the programs of the PostgreSQL version of the backup.
            sql: Statements to run on the restored server.
            sql_database: The database for them.
            all_wal: Replay all WAL in the catalog, not only as far as consistency.
            recovery_instance: As in `restore`.
            without: Checks to leave out, ``amcheck`` or ``checksums``. The proof says so.
            timeout: How long the server may take to be consistent.
            wal_restore_program: As in `restore`.
            on_progress: Called with each event. If it raises, the verification is cancelled.
            cancel: Cancels it, from another thread.
        """
        options = {
            "work_dir": _path(work_dir),
            "pg_bin_dir": _path(pg_bin_dir),
            "sql": [*sql],
            "sql_database": sql_database,
            "all_wal": all_wal,
            "target_tli": None if target_tli is None else str(target_tli),
            "snapshot_recovery_instance": recovery_instance,
            "without": [*without],
            "timeout_ms": _milliseconds(timeout),
            "wal_restore_program": self._wal_restore_program(wal_restore_program),
        }
        return Proof.from_dict(self._verify(backup, options, cancel, _listener(on_progress)))

    def recover(
        self,
        backup: Optional[str] = None,
        *,
        force: bool = False,
        discard: bool = False,
        dry_run: bool = False,
        cancel: Optional[_native.CancelToken] = None,
    ) -> _List[Rescue]:
        """Brings sessions that were left by their process to their end, and says what became of each: one that had not come
        to the end of backup mode is undone, any other is completed.

        Args:
            backup: This session only.
            force: Take over even if the process may still be running; it will be fenced.
            discard: Undo also what could be completed.
            dry_run: Only say what would be done.
            cancel: Cancels it, from another thread.
        """
        options = {"backup_id": backup, "force": force, "discard": discard, "dry_run": dry_run}
        return [Rescue.from_dict(each) for each in self._recover(options, cancel)]

    def gc(
        self, *, apply: bool = False, keep_undone_days: int = 30, volumes_older_than_days: int = 1
    ) -> Garbage:
        """Finds snapshots that belong to nobody, volumes that a restore has made and never attached, and journals of backups
        that were undone long ago; with ``apply``, removes them."""
        options = {
            "apply": apply,
            "keep_undone_days": keep_undone_days,
            "volumes_older_than_days": volumes_older_than_days,
        }
        return Garbage.from_dict(self._gc(options))

    def wal_archive(
        self,
        path: _Path,
        *,
        compression: Optional[Literal["gzip", "bzip2", "xz", "snappy", "zstd", "lz4"]] = None,
        compression_level: Union[str, int, None] = None,
        new_system_id: Optional[str] = None,
    ) -> None:
        """Stores one WAL file (``%p`` of ``archive_command``). ``compression_level`` is ``low``, ``medium``, ``high`` or a
        number; ``new_system_id`` is as in `backup`."""
        level = None if compression_level is None else str(compression_level)
        options = {"compression": compression, "compression_level": level, "new_system_id": new_system_id}
        self._wal_archive(path, options)

    def wal_restore(
        self,
        name: str,
        destination: _Path,
        *,
        new_tablespaces: Literal["original", "inside"] = "original",
    ) -> None:
        """Fetches one WAL file (``%f``) to a path (``%p`` of ``restore_command``); `NotFoundError` if it is not there.

        With ``new_tablespaces="inside"``, tablespaces that the WAL creates go into the data directory into which it is replayed,
        not where the original has them; `UnsupportedError` if that cannot be.
        """
        self._wal_restore(name, destination, {"new_tablespaces": new_tablespaces})

    check_async = twin(check)
    list_async = twin(list)
    show_async = twin(show)
    keep_async = twin(keep)
    delete_async = twin(delete)
    restore_async = twin(restore)
    plan_restore_async = twin(plan_restore)
    verify_async = twin(verify)
    recover_async = twin(recover)
    gc_async = twin(gc)
    wal_archive_async = twin(wal_archive)
    wal_restore_async = twin(wal_restore)

    def _wal_restore_program(self, given: Optional[Sequence[str]]) -> _List[str]:
        if given is not None:
            return [*given]
        # A program that embeds Python has no executable for it; then the engine names the command line.
        return [sys.executable, "-m", "barman_snap", *self._store_arguments] if sys.executable else []

    def __repr__(self) -> str:
        return f"Engine({self.url!r}, {self.server!r})"
