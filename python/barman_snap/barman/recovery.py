"""``barman restore`` of a backup that the engine has made.

The engine restores the data directory; Barman does the rest as for its other backups: WAL, target, settings, signal files.
So what the engine writes about recovery is taken out again. Stock Barman expects that the volumes of a snapshot backup have
been made, attached and mounted, but refuses a destination that is not empty; here the engine makes them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from barman.exceptions import RecoveryException  # type: ignore[import-untyped]
from barman.output import info  # type: ignore[import-untyped]
from barman.recovery_executor import RemoteConfigRecoveryExecutor  # type: ignore[import-untyped]

from barman_snap import Error

from . import engines

__all__ = ["executor_factory"]

_NOTE = "# written by barman-snap restore\n"
# The engine writes what it is told and Barman then writes its own, so this is never run.
_NO_WAL = "false %f %p"


def executor_factory(stock: Callable[..., Any]) -> Callable[..., Any]:
    """In place of the function that chooses who restores a backup. The backup is its last argument in every version."""

    def choose(*arguments: Any, **named: Any) -> Any:
        backup_info = named.get("backup_info", arguments[-1])
        if engines.is_ours(backup_info):
            return EngineRecovery(arguments[0])
        return stock(*arguments, **named)

    return choose


class EngineRecovery(RemoteConfigRecoveryExecutor):  # type: ignore[misc]
    """Restores one backup of the engine."""

    def recover(self, backup_info: Any, dest: str, *arguments: Any, **named: Any) -> Any:
        """As Barman does it, but for the copy. Takes what is for snapshots only, which Barman's own does not."""
        self._instance = named.pop("recovery_instance", None)
        if named.get("remote_command"):
            raise RecoveryException("the engine restores on this host: leave --remote-ssh-command out")
        return super().recover(backup_info, dest, *arguments, **named)

    def _start_backup_copy_message(self) -> None:
        info("Restoring the data directory from its snapshots.")

    def _prepare_tablespaces(self, *_arguments: Any, **_named: Any) -> None:
        """The engine makes their directories and links."""

    def _backup_copy(self, backup_info: Any, dest: str, tablespaces: Any = None, **_named: Any) -> None:
        if backup_info.snapshots_info is not None:
            # An older Barman has made the directory, which stands in the way of the volume to be mounted above it.
            with contextlib.suppress(OSError):
                os.rmdir(dest)
        try:
            engine = engines.for_server(self.config, backup_info)
            engine.restore(
                backup_info.backup_id,
                dest,
                tablespaces=tablespaces or {},
                restore_command=_NO_WAL,
                recovery_instance=self._instance,
            )
        except Error as error:
            raise RecoveryException(str(error)) from error
        _leave_recovery_to_barman(Path(dest))


def _leave_recovery_to_barman(data: Path) -> None:
    """Takes out what the engine has written about recovery: its lines are the last ones of the file."""
    for name in ("recovery.signal", "standby.signal"):
        (data / name).unlink(missing_ok=True)
    path = data / "postgresql.auto.conf"
    before, note, _ours = path.read_text(encoding="utf-8").partition(_NOTE)
    if note:
        path.write_text(before, encoding="utf-8")
        os.chmod(path, 0o600)
