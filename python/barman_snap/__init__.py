"""Snapshot backups for PostgreSQL: take, catalog, restore and prove them.

The engine is written in Rust; this package translates and decides nothing. Importing it sets nothing up.

>>> engine = Engine("/srv/catalog", "pg1")            # doctest: +SKIP
>>> backup = engine.backup("host=/run/postgresql")    # doctest: +SKIP
>>> engine.restore(backup.id, "/srv/restored")        # doctest: +SKIP
"""

from ._native import Backup, Engine, Session, __version__
from .exceptions import (
    BarmanSnapError,
    CancelledError,
    ConflictError,
    CorruptError,
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

__all__ = [
    "Backup",
    "BarmanSnapError",
    "CancelledError",
    "ConflictError",
    "CorruptError",
    "Engine",
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
    "StorageError",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
]
