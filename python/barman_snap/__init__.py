"""Snapshot backups for PostgreSQL: take, catalog, restore and prove them.

::

    import barman_snap

    engine = barman_snap.Engine("/srv/catalog", "pg1")
    backup = engine.backup("host=/run/postgresql").run()
    engine.restore(backup.backup_id, "/srv/restored")

The engine is written in Rust; this package translates and decides nothing. Importing it sets nothing up: no logger, no
signal handler, no thread.

* `Engine` is one server in one catalog; everything begins there. `Session` is a backup that is being taken.
* `Error` is the base of all exceptions.
* `barman_snap.results` and `barman_snap.events` have what is returned and what is told of progress.
* `SnapshotProvider` (`barman_snap.provider`) is for snapshots that the engine does not know.
* `enable_logging` passes what the engine logs on to ``logging``.
"""

from ._native import CancelToken, __version__
from .engine import Engine
from .events import Event
from .exceptions import (
    CancelledError,
    ConflictError,
    CorruptError,
    Error,
    ExhaustedError,
    FencedError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    PostgresError,
    PreconditionError,
    ProviderError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)
from .logs import disable_logging, enable_logging
from .provider import SnapshotProvider
from .results import Backup
from .session import Session

__all__ = [
    "Backup",
    "CancelToken",
    "CancelledError",
    "ConflictError",
    "CorruptError",
    "Engine",
    "Error",
    "Event",
    "ExhaustedError",
    "FencedError",
    "InternalError",
    "InvalidInputError",
    "NotFoundError",
    "PermissionDeniedError",
    "PostgresError",
    "PreconditionError",
    "ProviderError",
    "Session",
    "SnapshotProvider",
    "StorageError",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
    "disable_logging",
    "enable_logging",
]
