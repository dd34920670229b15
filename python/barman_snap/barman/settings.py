"""Whether the engine takes the snapshots of a server, and what Barman's own configuration has no words for.

The variable ``BARMAN_SNAP`` decides: ``off``, ``on`` (for every server), or the path of a file. Without it, the file is
`DEFAULT_FILE`, if that exists. The file has a section ``[barman-snap]`` for all servers, and one for each server that
differs, with its name::

    [barman-snap]
    enabled = on
    [main]
    snapshot_directory = /srv/pg/.snapshots

The invariant: a word that is not known is refused. It might be the one that mattered.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

__all__ = ["DEFAULT_FILE", "VARIABLE", "Settings", "SettingsError", "is_off", "load"]

VARIABLE = "BARMAN_SNAP"
DEFAULT_FILE = Path("/etc/barman-snap.conf")
_COMMON = "barman-snap"
# With which argument of `barman_snap.Engine` each goes.
_TEXTS = ("snapshot_method", "snapshot_directory", "host_description")
_SECONDS = ("cut_timeout", "ready_timeout", "wal_timeout")
_CLOUDS = ("aws", "gcp", "azure")
# What is for the adapter itself.
_OWN = ("enabled", "catalog", "snapshot_provider")
_YES_NO = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}


class SettingsError(ValueError):
    """The variable or the file does not say what it should."""


@dataclass(frozen=True)
class Settings:
    """What is set for one server."""

    enabled: bool = False
    """Whether the engine takes its snapshots."""

    catalog: Optional[str] = None
    """The directory in which the engine keeps its catalog for a Barman server; by default one in its ``backup_directory``."""

    snapshot_provider: Optional[str] = None
    """What takes the snapshots, if it is not what Barman's configuration or ``--cloud-provider`` says."""

    engine: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments for `barman_snap.Engine`."""


def is_off(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the variable says that Barman is to be left as it is, whatever a file says."""
    return _YES_NO.get(environ.get(VARIABLE, "").strip().lower()) is False


def load(server: str, environ: Mapping[str, str] = os.environ) -> Settings:
    """What is set for a server. `SettingsError` if it cannot be read."""
    word = environ.get(VARIABLE, "").strip()
    if word.lower() in _YES_NO:
        return Settings(enabled=_YES_NO[word.lower()])
    file = Path(word) if word else DEFAULT_FILE
    if not word and not file.exists():
        return Settings()
    if not file.is_absolute():
        raise SettingsError(f"{VARIABLE} is {word!r}: it has to be on, off, or the absolute path of a file")
    return _parsed(_read(file), server, file)


def _read(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {file}: {' '.join(str(error).split())}") from error
    return parser


def _parsed(parser: configparser.ConfigParser, server: str, file: Path) -> Settings:
    values: dict[str, str] = {}
    for section in (_COMMON, server):
        if parser.has_section(section):
            values.update(parser[section])
    engine: dict[str, Any] = {}
    for name, value in values.items():
        if name in _OWN:
            continue
        if name in _TEXTS:
            engine[name] = value
        elif name in _SECONDS:
            engine[name] = _seconds(name, value, file)
        elif name.partition(".")[0] in _CLOUDS and name.partition(".")[2]:
            cloud, _, option = name.partition(".")
            engine.setdefault(cloud, {})[option] = _typed(value)
        else:
            known = ", ".join([*_OWN, *_TEXTS, *_SECONDS])
            raise SettingsError(f"{file}: unknown option {name!r} (known: {known}, and aws., gcp., azure. with one of theirs)")
    enabled = values.get("enabled", "off").lower()
    if enabled not in _YES_NO:
        raise SettingsError(f"{file}: enabled is {enabled!r}, not on or off")
    return Settings(_YES_NO[enabled], values.get("catalog"), values.get("snapshot_provider"), engine)


def _seconds(name: str, value: str, file: Path) -> float:
    try:
        return float(value)
    except ValueError:
        raise SettingsError(f"{file}: {name} is {value!r}, not a number of seconds") from None


def _typed(value: str) -> Any:
    """A number or a truth where the options of a cloud want one; the engine refuses what does not fit."""
    if value.isdigit():
        return int(value)
    return _YES_NO.get(value.lower(), value)
