"""The Barman server: what checks, takes and deletes the backups of a server with ``backup_method = snapshot``.

The server keeps its own catalog (``backup.info``, WAL, retention, locks, hooks) and stays the only one who decides; the
engine keeps its journal and what it needs for a restore beside it, under the same backup id. Order makes the two agree: the
engine publishes before Barman says DONE, and deletes before Barman forgets.
"""

from __future__ import annotations

import io
import logging
import os
from abc import ABCMeta
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from barman.backup_executor import BackupExecutor  # type: ignore[import-untyped]
from barman.exceptions import BackupException  # type: ignore[import-untyped]

from barman_snap import Engine, Error, NotFoundError

from . import engines
from .settings import SettingsError

__all__ = ["delete_backup_data", "executor"]

# The lines of a check that stock Barman has, too, by its names; all others begin with `snapshot` as well.
_STOCK_CHECKS = {
    "instance": "snapshot instance exists",
    "volumes": "snapshot disks attached to instance",
    "disks attached": "snapshot disks attached to instance",
    "coverage": "snapshot disks mounted on instance",
    "snapshots possible": "snapshots possible",
}
_logger = logging.getLogger(__name__)
# What of the `backup.info` of the engine is Barman's own affair.
_BARMANS = ("backup_name", "server_name", "status", "mode", "size", "deduplicated_size", "error")


def executor(stock: type) -> Callable[[Any], Any]:
    """In place of the class that takes snapshot backups: ours, or the stock one where the engine is not switched on."""

    def choose(backup_manager: Any) -> Any:
        config = backup_manager.server.config
        try:
            # Nobody else knows this provider, so whoever writes it means the engine.
            if config.snapshot_provider == "local" or engines.is_on(config.name):
                return EngineExecutor(backup_manager)
        except SettingsError as error:
            # Barman makes all of its servers before it does anything for one of them: an error here would stop the WAL of all.
            config.update_msg_list_and_disable_server(f"barman-snap: {error}")
        return stock(backup_manager)

    return choose


class _Strategy:
    """What Barman asks about how its backups are taken."""

    mode = "concurrent"


class EngineExecutor(BackupExecutor, metaclass=ABCMeta):  # type: ignore[misc]
    """Takes the backups of one server."""

    def __init__(self, backup_manager: Any) -> None:
        super().__init__(backup_manager, "snapshot")
        self.strategy = _Strategy()
        self._validate()

    @property
    def _is_local(self) -> bool:
        return engines.server_provider(self.config) == "local"

    def _validate(self) -> None:
        # A local provider finds the volumes of the cluster itself, and there is but this host.
        needed = () if self._is_local else ("snapshot_provider", "snapshot_instance", "snapshot_disks")
        missing = [name for name in needed if not getattr(self.config, name)]
        if missing:
            self.server.config.update_msg_list_and_disable_server(f"incomplete snapshot options: {', '.join(missing)}")

    def _request(self) -> dict[str, Any]:
        return {
            "disks": [disk.strip() for disk in self.config.snapshot_disks or ()],
            "instance": None if self._is_local else self.config.snapshot_instance,
            # Barman keeps the WAL of its servers.
            "wal_external": True,
        }

    def check(self, check_strategy: Any) -> None:
        """Adds a line for each thing that the engine has looked at."""
        name = self.config.name
        check_strategy.init_check("snapshots")
        # Like failed backups: to be seen, but no reason not to take the next one, which cleans up.
        check_strategy.ignore_list = [*check_strategy.ignore_list, "snapshot sessions"]
        try:
            report = engines.for_server(self.config).check(self.config.conninfo, **self._request())
        except Error as error:
            check_strategy.result(name, False, hint=str(error))
            return
        for line in report.lines:
            hint = line.detail if line.hint is None else f"{line.detail}: {line.hint}"
            check_strategy.result(name, line.ok, check=_STOCK_CHECKS.get(line.name, f"snapshot {line.name}"), hint=hint)

    def backup(self, backup_info: Any) -> None:
        """Takes a backup, and fills ``backup_info`` from what the engine has stored."""
        self.current_action = "taking snapshots"
        # Barman says with these how long it took; its clock has no zone.
        self.copy_start_time = datetime.now()
        # Barman 3.13 can delete a failed backup only where it has a directory.
        data = Path(backup_info.get_data_directory())
        data.parent.mkdir(parents=True, exist_ok=True)
        try:
            engine = engines.for_server(self.config)
            self._rescue(engine)
            backup_info.set_attribute("systemid", self.server.systemid)
            session = engine.backup(
                self.config.conninfo,
                backup_id=backup_info.backup_id,
                name=backup_info.backup_name,
                immediate_checkpoint=bool(self.server.postgres.immediate_checkpoint),
                **self._request(),
            )
            backup = session.run()
        except Error as error:
            raise BackupException(str(error)) from error
        _logger.info("the engine has published backup %s", backup.backup_id)
        self.copy_end_time = datetime.now()
        self.current_action = "storing what the engine has written"
        _adopt(backup_info, _stored(engine, backup_info.backup_id))

    def _rescue(self, engine: Engine) -> None:
        """Undoes what a killed process has left. Barman has no backup of it, so none is made of it here."""
        for rescue in engine.recover(discard=True):
            if rescue.action not in ("nothing", "leave_alone"):
                _logger.warning("backup %s was left by its process: %s", rescue.backup_id, rescue.ended)


def _stored(engine: Engine, backup_id: str) -> str:
    """The ``backup.info`` that the engine has written."""
    path = Path(engine.url, engine.server, "base", backup_id, "backup.info")
    return path.read_text(encoding="utf-8")


def _adopt(backup_info: Any, text: str) -> None:
    """Takes the fields of the backup over. The two write one format, so Barman's own reader reads it."""
    kept = {name: getattr(backup_info, name, None) for name in _BARMANS}
    name = backup_info.filename
    backup_info.load(file_object=io.BytesIO(text.encode()))
    backup_info.filename = name
    for name, value in kept.items():
        setattr(backup_info, name, value)
    data = Path(backup_info.get_data_directory())
    data.mkdir(parents=True, exist_ok=True)
    # Barman gives a backup the size of what lies here, and calls one without anything incomplete.
    with open(data / "backup_label", "w", encoding="utf-8") as file:
        file.write(backup_info.backup_label)
        file.flush()
        os.fsync(file.fileno())


def delete_backup_data(stock: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """In place of the method that deletes the files and snapshots of a backup."""

    def delete(self: Any, backup: Any) -> Any:
        # Barman does not know of a backup that was published a moment before it was killed itself.
        if engines.is_ours(backup) or engines.has_backup(self.config, backup.backup_id):
            _delete(self.config, backup)
            # Done, and nothing for the client of a cloud.
            backup.snapshots_info = None
        return stock(self, backup)

    return delete


def _delete(config: Any, backup: Any) -> None:
    backup_id = backup.backup_id
    try:
        engines.for_server(config, backup).delete(backup_id)
    except NotFoundError:
        # An earlier attempt came so far.
        _logger.info("the engine has no backup %s any more", backup_id)
    except Error as error:
        raise BackupException(f"the snapshots of {backup_id} cannot be deleted: {error}") from error
