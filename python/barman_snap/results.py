"""What the methods of an engine return. All are immutable; see `Record`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Optional

from ._record import Record
from .provider import RestoredVolume, Ticket

__all__ = [
    "Backup",
    "BackupDeletion",
    "CatalogEntry",
    "CheckReport",
    "Deletion",
    "Finding",
    "Garbage",
    "KeptJournal",
    "KeptVolume",
    "Listing",
    "Orphan",
    "OrphanVolume",
    "Proof",
    "ProofCheck",
    "Reached",
    "Rescue",
    "RestorePlan",
    "Restored",
    "SessionEntry",
    "SetAside",
    "SkippedBackup",
    "SqlResult",
    "UnreadableBackup",
]


@dataclass(frozen=True, repr=False)
class Backup(Record):
    """What a published backup comes to."""

    backup_id: str
    """The backup id."""

    begin_lsn: str
    """Its first needed WAL position."""

    end_lsn: str
    """Its last needed WAL position."""

    snapshots: tuple[str, ...]
    """The names of its snapshots."""

    backup_mode: timedelta = field(metadata={"key": "backup_mode_ms"})
    """How long PostgreSQL was in backup mode."""

    cut: timedelta = field(metadata={"key": "cut_ms"})
    """From the first create call to the cut of the slowest snapshot."""

    bytes_copied: Optional[int] = None
    """Bytes that had to be copied, where the provider tells."""

    wal_supplied: tuple[str, ...] = ()
    """WAL segments that the engine stored itself."""

    archived_elsewhere: Optional[str] = None
    """A file that the server says it has archived, and that was not in the catalog: ``archive_command`` stores elsewhere."""


@dataclass(frozen=True, repr=False)
class Reached(Record):
    """Where the recovery of a verification ended."""

    lsn: str
    """The last position that was replayed."""

    timeline: int
    """The timeline that the restored server has opened for itself."""

    system_id: str
    """Its system identifier."""

    last_transaction: Optional[str] = None
    """The time of the last transaction that was replayed; none if the WAL of the backup has none."""

    databases: int = 0
    """How many databases accept connections."""

    bytes: int = 0
    """The size of all databases."""


@dataclass(frozen=True, repr=False)
class ProofCheck(Record):
    """One check of a verification."""

    name: str
    """``restore``, ``recovery``, ``identity``, ``amcheck``, ``sql``, ``shutdown``, ``checksums``."""

    outcome: str
    """``passed``, ``failed`` or ``skipped``."""

    detail: str
    """What was seen, or why it failed or was skipped."""

    duration: timedelta = field(metadata={"key": "duration_ms"})
    """How long it took."""


@dataclass(frozen=True, repr=False)
class SqlResult(Record):
    """A statement of the user and what it returned."""

    database: str
    """The database."""

    sql: str
    """The statement."""

    row_count: int
    """How many rows it returned."""

    rows: tuple[tuple[Optional[str], ...], ...] = ()
    """The first hundred rows, as text."""


@dataclass(frozen=True, repr=False)
class Proof(Record):
    """The record of one verification, as it is stored in the catalog."""

    server: str
    """The server."""

    backup_id: str
    """The backup."""

    passed: bool
    """True if no check failed. A backup that was found bad is no exception: look here."""

    started_at: datetime
    """When the verification began."""

    finished_at: datetime
    """When it ended."""

    duration: timedelta = field(metadata={"key": "duration_ms"})
    """How long it took."""

    engine: str
    """The version of the engine."""

    postgres: str
    """What ``postgres --version`` says of the programs that were used."""

    target: str
    """How far the server was told to recover, in words."""

    reached: Optional[Reached] = None
    """Where recovery ended."""

    bytes_copied: Optional[int] = None
    """Bytes that were copied for the restore, where the provider tells."""

    checks: tuple[ProofCheck, ...] = ()
    """The checks, in the order in which they were made."""

    sql: tuple[SqlResult, ...] = ()
    """What the statements of the user returned."""

    log: tuple[str, ...] = ()
    """The last lines of the server's log, if a check failed."""


@dataclass(frozen=True, repr=False)
class CatalogEntry(Record):
    """A backup in the catalog. `to_dict` gives it as ``barman-cloud-backup-show`` does."""

    backup_id: str
    """The backup id."""

    status: str
    """``DONE``, ``STARTED`` or ``FAILED``; others only from other tools."""

    name: Optional[str] = field(default=None, metadata={"key": "backup_name"})
    """The name that it was given."""

    server: Optional[str] = field(default=None, metadata={"key": "server_name"})
    """The server."""

    begin_time: Optional[datetime] = field(default=None, metadata={"key": "begin_time_iso"})
    """When it began."""

    end_time: Optional[datetime] = field(default=None, metadata={"key": "end_time_iso"})
    """When it ended."""

    begin_lsn: Optional[str] = field(default=None, metadata={"key": "begin_xlog"})
    """Its first needed WAL position."""

    end_lsn: Optional[str] = field(default=None, metadata={"key": "end_xlog"})
    """Its last needed WAL position."""

    begin_wal: Optional[str] = None
    """Its first needed WAL segment."""

    end_wal: Optional[str] = None
    """Its last needed WAL segment."""

    timeline: Optional[int] = None
    """Its timeline."""

    version: Optional[int] = None
    """The version of the server, as ``server_version_num``."""

    system_id: Optional[str] = field(default=None, metadata={"key": "systemid"})
    """The system identifier of the server."""

    pgdata: Optional[Path] = None
    """The data directory."""

    size: Optional[int] = None
    """Bytes, where they are known."""

    error: Optional[str] = None
    """Why it failed."""

    keep: Optional[str] = None
    """``full`` or ``standalone`` if it is kept beyond every retention policy."""

    proofs: tuple[Proof, ...] = ()
    """What has been proven of it, oldest first. Only `Engine.show` looks for them."""


@dataclass(frozen=True, repr=False)
class UnreadableBackup(Record):
    """A backup whose metadata cannot be read."""

    backup_id: str
    """The backup id."""

    error: str
    """Why."""


@dataclass(frozen=True, repr=False)
class SessionEntry(Record):
    """A session that is not over, or came to nothing."""

    backup_id: str
    """The id that it has claimed."""

    phase: Optional[str] = None
    """How far it is: see `Session.phase`. None if its journal cannot be read."""

    provider: Optional[str] = None
    """What takes its snapshots."""

    reason: Optional[str] = None
    """Why it was undone, or is stuck."""

    error: Optional[str] = None
    """Why its journal cannot be read."""


@dataclass(frozen=True, repr=False)
class Listing(Record):
    """What is in the catalog. Its length and its iterator are those of ``backups``."""

    backups: tuple[CatalogEntry, ...] = field(metadata={"key": "backups_list"})
    """The backups, oldest first."""

    unreadable: tuple[UnreadableBackup, ...] = ()
    """Backups whose metadata cannot be read."""

    sessions: tuple[SessionEntry, ...] = ()
    """Sessions that are not over, or came to nothing."""

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self.backups)

    def __len__(self) -> int:
        return len(self.backups)

    def __bool__(self) -> bool:
        return bool(self.backups)


@dataclass(frozen=True, repr=False)
class Finding(Record):
    """One line of a check."""

    name: str
    """What was looked at."""

    ok: bool
    """Whether it is all right."""

    detail: str
    """What was found."""

    hint: Optional[str] = None
    """What to do, if it is not."""


@dataclass(frozen=True, repr=False)
class CheckReport(Record):
    """All that a backup needs, line by line."""

    lines: tuple[Finding, ...]
    """What was looked at, in this order."""

    @property
    def ok(self) -> bool:
        """Whether every line is."""
        return all(line.ok for line in self.lines)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The lines that are not."""
        return tuple(line for line in self.lines if not line.ok)


@dataclass(frozen=True, repr=False)
class BackupDeletion(Record):
    """What is deleted of one backup."""

    backup_id: str = field(metadata={"key": "id"})
    """The backup."""

    provider: Optional[str]
    """What has its snapshots."""

    snapshots: tuple[Ticket, ...] = ()
    """Its snapshots."""

    keys: tuple[str, ...] = ()
    """Its objects in the catalog."""


@dataclass(frozen=True, repr=False)
class SkippedBackup(Record):
    """A backup that a policy lets go, but that cannot be deleted now."""

    backup_id: str = field(metadata={"key": "id"})
    """The backup."""

    why: str
    """Why, in one line."""


@dataclass(frozen=True, repr=False)
class Deletion(Record):
    """What was deleted, or would be."""

    backups: tuple[BackupDeletion, ...] = ()
    """The backups, oldest first."""

    skipped: tuple[SkippedBackup, ...] = ()
    """Those that a policy lets go, but that cannot be deleted now."""

    wal_keys: tuple[str, ...] = ()
    """The WAL that no backup needs any more."""

    wal_reason: Optional[str] = None
    """Why WAL is kept, if there is a reason that one would not expect."""


@dataclass(frozen=True, repr=False)
class SetAside(Record):
    """A directory that a restore in place has kept under another name."""

    before: Path = field(metadata={"key": "from"})
    """The name that it had."""

    after: Path = field(metadata={"key": "to"})
    """The name that it has."""


@dataclass(frozen=True, repr=False)
class RestorePlan(Record):
    """What a restore would do. `to_dict` has every file and setting of it."""

    backup_id: str
    """The backup."""

    provider: str
    """What has its snapshots."""

    target: Path
    """The new data directory."""

    major: int
    """The major version of PostgreSQL."""

    set_aside: tuple[SetAside, ...] = ()
    """Directories that are kept under another name; only in place."""

    warnings: tuple[str, ...] = ()
    """What the user should know."""


@dataclass(frozen=True, repr=False)
class Restored(Record):
    """What a restore has done."""

    target: Path
    """The data directory, ready to be started."""

    duration: timedelta = field(metadata={"key": "duration_ms"})
    """How long it took."""

    set_aside: tuple[SetAside, ...] = ()
    """What was there before, under its new name."""

    bytes_copied: Optional[int] = None
    """Bytes that were copied, if the provider tells for every piece."""


@dataclass(frozen=True, repr=False)
class Rescue(Record):
    """What became of a session that its process had left."""

    backup_id: str
    """The backup."""

    phase: str
    """How far it was."""

    action: str
    """``nothing`` (it is over), ``leave_alone`` (its process may live), ``undo`` or ``go_forward``."""

    ended: str
    """How far it is now."""

    why: Optional[str] = None
    """Why that action."""

    missing: tuple[str, ...] = ()
    """What was still missing, for ``go_forward``."""

    snapshots: tuple[str, ...] = ()
    """The snapshots that it had made."""

    error: Optional[str] = None
    """Why it did not come to its end."""


@dataclass(frozen=True, repr=False)
class Orphan(Record):
    """A snapshot that belongs to nobody."""

    provider: str
    """What has it."""

    ticket: Ticket = field(metadata={"flat": True})
    """The snapshot."""


@dataclass(frozen=True, repr=False)
class OrphanVolume(Record):
    """A volume that no restore wants any more."""

    provider: str
    """What has it."""

    volume: RestoredVolume = field(metadata={"flat": True})
    """The volume."""


@dataclass(frozen=True, repr=False)
class KeptVolume(Record):
    """A volume of a restore that stays, although it is attached to nothing."""

    provider: str
    """What has it."""

    id: str
    """Its id."""

    why: str
    """Why, in one line."""


@dataclass(frozen=True, repr=False)
class KeptJournal(Record):
    """A journal that has to stay."""

    backup_id: str
    """The session."""

    why: str
    """Why, in one line."""


@dataclass(frozen=True, repr=False)
class Garbage(Record):
    """What belongs to nobody."""

    orphans: tuple[Orphan, ...] = ()
    """Snapshots with our mark that no backup and no session has."""

    volumes: tuple[OrphanVolume, ...] = ()
    """Volumes that restores have made and never attached."""

    kept_volumes: tuple[KeptVolume, ...] = ()
    """Volumes of restores that are attached to nothing, and stay."""

    unseen_volumes: Mapping[str, str] = field(default_factory=dict)
    """Providers whose volumes could not be looked for, and why."""

    journals: tuple[str, ...] = ()
    """Sessions that are over, whose journals nobody needs."""

    kept_journals: tuple[KeptJournal, ...] = ()
    """Sessions that are over, and may have left snapshots."""

    saved_configs: tuple[str, ...] = ()
    """Backups that are gone, but for their saved configuration files."""

    open_sessions: tuple[str, ...] = ()
    """Sessions that are not over: `Engine.recover` is for them."""

    refusal: Optional[str] = None
    """Why nothing can be said of snapshots."""
