"""The exceptions: one base, and one class for each kind of error of the engine.

Callers decide on the class (or ``kind``) and on ``retry``, never on text::

    try:
        engine.backup(dsn).run()
    except barman_snap.Error as error:
        if error.retry == "after":
            ...

Providers that are written in Python raise them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar, Optional

__all__ = [
    "CancelledError",
    "ConflictError",
    "CorruptError",
    "Error",
    "ExhaustedError",
    "FencedError",
    "InternalError",
    "InvalidInputError",
    "NotFoundError",
    "PermissionDeniedError",
    "PostgresError",
    "PreconditionError",
    "ProviderError",
    "StorageError",
    "UnavailableError",
    "UnsupportedError",
]


class Error(Exception):
    """Everything that goes wrong in the engine.

    ``str()`` is one line: what went wrong, its causes, and in brackets what to do.
    """

    kind: ClassVar[str] = "internal"
    """What went wrong: ``not_found``, ``precondition``, ...; the same words as in C and on the command line."""

    operation: Optional[str]
    """The operation that was stopped: ``restore``, ``await-cut``, ..."""

    retry: str
    """Whether doing the same again can help: ``never``, ``safe``, ``after``, or ``unknown`` (look first: it cannot be told
    whether it happened)."""

    retry_after: Optional[timedelta]
    """For ``retry == "after"``: how long to wait."""

    sqlstate: Optional[str]
    """The SQLSTATE, if PostgreSQL gave one."""

    hint: Optional[str]
    """What the user can do, if that is known."""

    context: dict[str, str]
    """Values for machines: ``backup_id``, ``volume``, ``path``, ..."""

    def __init__(
        self,
        message: str = "",
        *,
        operation: Optional[str] = None,
        retry: str = "never",
        retry_after: Optional[timedelta] = None,
        sqlstate: Optional[str] = None,
        hint: Optional[str] = None,
        context: Optional[Mapping[str, str]] = None,
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.retry = retry
        self.retry_after = retry_after
        self.sqlstate = sqlstate
        self.hint = hint
        self.context = dict(context or {})


class InvalidInputError(Error):
    """The request itself is wrong: an option, a name, a URL. Change the request."""

    kind = "invalid_input"


class PreconditionError(Error):
    """The machine or the server is not in a state in which it could work. Change the surroundings."""

    kind = "precondition"


class NotFoundError(Error):
    """The thing asked for does not exist."""

    kind = "not_found"


class ConflictError(Error):
    """A thing of that name exists and differs, or somebody else was faster."""

    kind = "conflict"


class FencedError(Error):
    """Another driver has taken over this session; this one must not touch it any more."""

    kind = "fenced"


class PermissionDeniedError(Error):
    """Credentials or privileges do not allow it."""

    kind = "permission_denied"


class UnavailableError(Error):
    """Could not be reached, or did not answer in time."""

    kind = "unavailable"


class ExhaustedError(Error):
    """A limit or quota is in the way."""

    kind = "exhausted"


class CorruptError(Error):
    """Stored bytes are not what they should be."""

    kind = "corrupt"


class PostgresError(Error):
    """PostgreSQL refused a statement, or its connection was lost. ``sqlstate`` says which."""

    kind = "postgres"


class ProviderError(Error):
    """The snapshot provider refused, or a snapshot failed."""

    kind = "provider"


class StorageError(Error):
    """The object store or the local file system failed."""

    kind = "storage"


class CancelledError(Error):
    """It was cancelled."""

    kind = "cancelled"


class UnsupportedError(Error):
    """The provider or the platform cannot do this at all."""

    kind = "unsupported"


class InternalError(Error):
    """A defect of barman_snap."""

    kind = "internal"


_BY_KIND: dict[str, type[Error]] = {each.kind: each for each in Error.__subclasses__()}


def _class_of(kind: str) -> type[Error]:
    """The class for a kind; the base for one that this file does not know yet."""
    return _BY_KIND.get(kind, Error)
