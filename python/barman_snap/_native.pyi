"""What is written in Rust; private. The package around it is what users see."""

import os
from collections.abc import Callable
from typing import Any, Final, Optional, Union, final

from typing_extensions import Self, TypeAlias, disjoint_base

__all__ = [
    "CancelToken",
    "Engine",
    "ERROR_KINDS",
    "PROVIDERS",
    "Session",
    "__version__",
    "run_conformance",
    "set_log_sink",
]

_Path: TypeAlias = Union[str, os.PathLike[str]]
_Options: TypeAlias = dict[str, Any]
_Progress: TypeAlias = Callable[[dict[str, Any]], object]

__version__: Final[str]
ERROR_KINDS: Final[list[str]]
PROVIDERS: Final[list[str]]

@final
class CancelToken:
    """Cancels what it was given to, from any thread, as often as one likes.

    A backup that is cancelled is undone, unless its snapshots are safe already: then it is left to ``Engine.recover``. A
    restore or a verification removes what it has made. Whoever waits for it gets a ``CancelledError``.
    """

    def __new__(cls) -> Self: ...
    def cancel(self) -> None:
        """Cancels."""

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""

@disjoint_base
class Engine:
    """The base of ``barman_snap.Engine``, which says what the methods mean. Options are those of the engine's JSON."""

    def __new__(
        cls, url: _Path, server: str, options: _Options, provider: Optional[object] = None
    ) -> Self: ...
    @property
    def url(self) -> str:
        """Where the catalog is."""

    @property
    def server(self) -> str:
        """The server in it."""

    @property
    def _store_arguments(self) -> list[str]: ...
    def _list(self) -> dict[str, Any]: ...
    def _show(self, backup: str) -> dict[str, Any]: ...
    def _keep(self, backup: str, target: Optional[str]) -> None: ...
    def _delete(self, options: _Options) -> dict[str, Any]: ...
    def _check(
        self, connection: Optional[str], options: _Options, cancel: Optional[CancelToken]
    ) -> dict[str, Any]: ...
    def _restore(
        self,
        backup: str,
        target: _Path,
        options: _Options,
        cancel: Optional[CancelToken],
        on_progress: Optional[_Progress],
    ) -> dict[str, Any]: ...
    def _verify(
        self,
        backup: str,
        options: _Options,
        cancel: Optional[CancelToken],
        on_progress: Optional[_Progress],
    ) -> dict[str, Any]: ...
    def _recover(self, options: _Options, cancel: Optional[CancelToken]) -> list[dict[str, Any]]: ...
    def _gc(self, options: _Options) -> dict[str, Any]: ...
    def _wal_archive(self, path: _Path, options: _Options) -> None: ...
    def _wal_restore(self, name: str, destination: _Path, options: _Options) -> None: ...

@disjoint_base
class Session:
    """The base of ``barman_snap.Session``, which says what the methods mean."""

    def __new__(
        cls,
        engine: Engine,
        connection: Optional[str],
        options: _Options,
        on_progress: Optional[_Progress],
        cancel: Optional[CancelToken] = None,
    ) -> Self: ...
    @property
    def backup_id(self) -> str:
        """The id of the backup."""

    @property
    def phase(self) -> str:
        """The phase after the last step: planned, starting, started, snapshotting, stopped, finishing, published, undoing,
        undone or stuck."""

    def cancel(self) -> None:
        """Cancels it, from any thread; whoever drives it gets a ``CancelledError``."""

    @property
    def _is_open(self) -> bool: ...
    def _run(self) -> dict[str, Any]: ...
    def _next_step(self) -> Optional[str]: ...
    def _summary(self) -> dict[str, Any]: ...

def run_conformance(fixture: object, bridge: object) -> list[tuple[str, Optional[str]]]:
    """The suites of ``barman_snap.conformance``."""

def set_log_sink(sink: Optional[Callable[[int, str, str], object]], level: int) -> None:
    """For ``barman_snap.enable_logging``."""
