"""What is written in Rust. Times are in ``datetime.timedelta``; paths are ``str`` or ``os.PathLike``."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal, Optional, Union, final

from typing_extensions import Self, TypeAlias

__all__ = ["Backup", "Engine", "Session", "__version__", "ERROR_KINDS"]

_Path: TypeAlias = Union[str, os.PathLike[str]]
# `Engine` has a method of this name.
_List: TypeAlias = list
_Progress: TypeAlias = Callable[[dict[str, Any]], object]

__version__: Final[str]
ERROR_KINDS: Final[list[str]]

@final
class Backup:
    """What a published backup comes to."""

    @property
    def id(self) -> str:
        """The backup id."""

    @property
    def begin_lsn(self) -> str:
        """Its first needed WAL position."""

    @property
    def end_lsn(self) -> str:
        """Its last needed WAL position."""

    @property
    def snapshots(self) -> list[str]:
        """The names of its snapshots."""

    @property
    def backup_mode(self) -> timedelta:
        """How long PostgreSQL was in backup mode."""

    @property
    def cut(self) -> timedelta:
        """From the first create call to the cut of the slowest snapshot."""

    @property
    def bytes_copied(self) -> Optional[int]:
        """Bytes that had to be copied, where the provider tells."""

    @property
    def wal_supplied(self) -> list[str]:
        """WAL segments that the engine stored itself."""

@final
class Session:
    """A backup that is being taken; made by `Engine.session`.

    One thread at a time may drive it; everything else may be used from other threads meanwhile. As a context manager it
    runs what is left at the end of the block; if the block raises, the backup is cancelled and undone. (Once its snapshots
    are safe nothing is undone: the session is left to `Engine.recover`, with a `RuntimeWarning`.)

    One that is dropped before its end is left as if its process had died: `Engine.recover` cleans up.
    """

    @property
    def backup_id(self) -> str:
        """The id of the backup."""

    @property
    def phase(self) -> str:
        """The phase after the last step: planned, starting, started, snapshotting, stopped, finishing, published, undoing,
        undone or stuck."""

    def run(self) -> Backup:
        """Runs it to its end. On an error, ``error.context["ended"]`` says what is left."""

    def next_step(self) -> Optional[str]:
        """Does the next step and returns its name; ``None`` when the session is over. After an error go on calling while the
        phase is ``undoing``: the next steps undo."""

    def cancel(self) -> None:
        """Cancels it, from any thread; whoever drives it gets a `CancelledError`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
        /,
    ) -> Literal[False]: ...

@final
class Engine:
    """One server in one catalog, and what can be done with its backups. May be used from several threads.

    ``url`` is a directory, ``file://``, ``s3://``, ``gs://`` or Azure's ``https://``; nothing of it needs to exist yet.
    Every method raises a `BarmanSnapError` when it fails.
    """

    def __new__(
        cls,
        url: _Path,
        server: str,
        *,
        endpoint_url: Optional[str] = None,
        aws_profile: Optional[str] = None,
        aws_region: Optional[str] = None,
        read_timeout: Optional[timedelta] = None,
        addressing_style: str = "auto",
        azure_credential: Optional[str] = None,
        snapshot_provider: str = "local",
        snapshot_method: str = "auto",
        snapshot_directory: Optional[_Path] = None,
        cut_timeout: Optional[timedelta] = None,
        ready_timeout: Optional[timedelta] = None,
        wal_timeout: Optional[timedelta] = None,
    ) -> Self: ...
    @property
    def url(self) -> str:
        """Where the catalog is."""

    @property
    def server(self) -> str:
        """The server in it."""

    def backup(
        self,
        dsn: Optional[str] = None,
        *,
        name: Optional[str] = None,
        immediate_checkpoint: bool = False,
        disks: Sequence[_Path] = ...,
        instance: Optional[str] = None,
        wal_external: bool = False,
        tags: Mapping[str, str] = ...,
        on_progress: Optional[_Progress] = None,
    ) -> Backup:
        """Takes a backup.

        ``dsn`` is a libpq connection string or URI, the name of a database, or ``None`` for what the ``PG*`` variables say.
        Without ``disks``, those that hold the cluster are found. ``on_progress`` is called with each event; if it raises,
        the backup is cancelled and undone, and its exception comes out here.
        """

    def session(
        self,
        dsn: Optional[str] = None,
        *,
        name: Optional[str] = None,
        immediate_checkpoint: bool = False,
        disks: Sequence[_Path] = ...,
        instance: Optional[str] = None,
        wal_external: bool = False,
        tags: Mapping[str, str] = ...,
        on_progress: Optional[_Progress] = None,
    ) -> Session:
        """Plans a backup and claims its id; nothing else has been done when this returns."""

    def list(self) -> dict[str, Any]:
        """All backups: ``backups_list`` is that of ``barman-cloud-backup-list``, ``unreadable`` are those whose metadata
        cannot be read, ``sessions`` are those that are not over or came to nothing."""

    def show(self, backup: str) -> dict[str, Any]:
        """One backup with its ``proofs``: an id, a name, ``first`` or ``last``."""

    def keep(self, backup: str, target: Optional[str] = None) -> None:
        """Keeps a backup beyond every retention policy, ``full`` or ``standalone``; without a target, releases it."""

    def delete(
        self,
        backup: Optional[str] = None,
        *,
        retention_policy: Optional[str] = None,
        minimum_redundancy: int = 0,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Deletes a backup, or those that a policy (``REDUNDANCY 3``, ``RECOVERY WINDOW OF 4 WEEKS``) does not need, and says
        what was deleted."""

    def restore(
        self,
        backup: str,
        target_dir: _Path,
        *,
        tablespaces: Mapping[str, _Path] = ...,
        in_place: bool = False,
        target_time: Optional[Union[str, datetime]] = None,
        target_lsn: Optional[str] = None,
        target_xid: Optional[int] = None,
        target_name: Optional[str] = None,
        target_immediate: bool = False,
        target_tli: Optional[str] = None,
        target_exclusive: bool = False,
        target_action: Optional[str] = None,
        restore_command: Optional[str] = None,
        wal_restore_program: Optional[Sequence[str]] = None,
        standby: bool = False,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Restores a backup (an id, a name, ``first``, ``last``, or ``auto`` for the one that suits the target) to a data
        directory, ready to be started, and says what was done; with ``dry_run``, the plan.

        A ``target_time`` without a zone is local time. The restored server fetches its WAL with
        ``wal_restore_program``; by default that is this Python with this package.
        """

    def verify(
        self,
        backup: str = "last",
        *,
        work_dir: Optional[_Path] = None,
        pg_bin_dir: Optional[_Path] = None,
        sql: Sequence[str] = ...,
        sql_database: str = "postgres",
        all_wal: bool = False,
        timeout: Optional[timedelta] = None,
        wal_restore_program: Optional[Sequence[str]] = None,
    ) -> dict[str, Any]:
        """Restores a backup to a throw-away place, starts it, looks at every page, and records the proof. Look at its
        ``passed``: a backup that was found bad is no exception."""

    def recover(
        self,
        backup: Optional[str] = None,
        *,
        force: bool = False,
        discard: bool = False,
        dry_run: bool = False,
    ) -> _List[dict[str, Any]]:
        """Brings sessions that were left by their process to their end, and says what became of each."""

    def gc(self, *, apply: bool = False, keep_undone_days: int = 30) -> dict[str, Any]:
        """Finds snapshots that belong to nobody; with ``apply``, removes them."""

    def wal_archive(
        self,
        path: _Path,
        *,
        compression: Optional[str] = None,
        compression_level: Optional[str] = None,
    ) -> None:
        """Stores one WAL file (``%p`` of ``archive_command``)."""

    def wal_restore(self, name: str, destination: _Path) -> None:
        """Fetches one WAL file (``%f``) to a path (``%p`` of ``restore_command``); `NotFoundError` if it is not there."""
