"""What the engine logs, through Python's ``logging``. Opt-in: importing the package sets nothing up."""

from __future__ import annotations

import logging

from . import _native

__all__ = ["disable_logging", "enable_logging"]


def enable_logging(level: int = logging.INFO) -> None:
    """Passes what the engine logs at ``level`` or above on to the logger ``barman_snap`` and its children.

    The children are the parts of the engine, as ``barman_snap.session.driver``; ``barman_snap.library`` has the warnings of
    the libraries below it. Where it goes from there is set up with ``logging`` as for any other package. Call it again to
    change the level. Records are handled on the threads of the engine.
    """
    _native.set_log_sink(_sink, level)


def disable_logging() -> None:
    """Ends what `enable_logging` has begun."""
    _native.set_log_sink(None, logging.CRITICAL)


def _sink(level: int, target: str, message: str) -> None:
    name = target.replace("::", ".")
    if name.split(".")[0] not in ("barman_snap", "_native"):
        name, message = "barman_snap.library", f"{name}: {message}"
    logging.getLogger(name).log(level, "%s", message)
