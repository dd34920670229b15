"""Events: what has just happened in a backup, a restore or a verification.

Each is a small class, so that ``match`` and ``isinstance`` tell them apart::

    for event in session.events():
        if isinstance(event, StepDone):
            print(event.step, event.elapsed)

A later version may add some; pass over those that you do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Optional

from ._record import Record

__all__ = [
    "Attached",
    "Checking",
    "Created",
    "Creating",
    "Event",
    "Made",
    "Making",
    "Mounted",
    "Planned",
    "Prepared",
    "StepBegun",
    "StepDone",
    "Undoing",
    "Waiting",
]


@dataclass(frozen=True, repr=False)
class Event(Record):
    """Something that has just happened."""

    event: str
    """Its name, as in C and on the command line: ``step_done``, ..."""


@dataclass(frozen=True, repr=False)
class Planned(Event):
    """A backup id was claimed; from here on `Engine.recover` knows of the session."""

    backup_id: str
    """The backup."""

    volumes: int
    """How many volumes will be cut."""


@dataclass(frozen=True, repr=False)
class StepBegun(Event):
    """A step of a backup begins."""

    step: str
    """Its name: ``start``, ``snapshot``, ``stop``, ..."""


@dataclass(frozen=True, repr=False)
class StepDone(Event):
    """A step of a backup is done."""

    step: str
    """Its name."""

    phase: str
    """The phase now; see `Session.phase`."""

    elapsed: timedelta = field(metadata={"key": "elapsed_ms"})
    """How long it took."""


@dataclass(frozen=True, repr=False)
class Waiting(Event):
    """A step of a backup waits for snapshots, or for WAL."""

    step: str
    """Its name."""

    done: int
    """How many have come as far as is waited for."""

    of: int
    """Of how many."""

    percent: Optional[int] = None
    """Progress of the slowest, where the provider tells."""


@dataclass(frozen=True, repr=False)
class Undoing(Event):
    """A backup will be undone."""

    reason: str
    """Why."""


@dataclass(frozen=True, repr=False)
class Making(Event):
    """A restore makes something of a snapshot."""

    destination: Path
    """Where it goes."""


@dataclass(frozen=True, repr=False)
class Made(Event):
    """A restore has made something of a snapshot."""

    destination: Path
    """Where it is."""

    bytes_copied: Optional[int] = None
    """Bytes that were copied, where the provider tells."""


@dataclass(frozen=True, repr=False)
class Creating(Event):
    """A restore makes a volume of a snapshot."""

    snapshot: str
    """The snapshot."""


@dataclass(frozen=True, repr=False)
class Created(Event):
    """A restore has made a volume."""

    volume: str
    """The volume."""


@dataclass(frozen=True, repr=False)
class Attached(Event):
    """A restore has attached a volume."""

    volume: str
    """The volume."""


@dataclass(frozen=True, repr=False)
class Mounted(Event):
    """A restore has mounted a file system."""

    device: Path
    """What it is on."""

    mount_point: Path
    """Where it is."""


@dataclass(frozen=True, repr=False)
class Prepared(Event):
    """The data directory of a restore is complete."""


@dataclass(frozen=True, repr=False)
class Checking(Event):
    """A step of a verification begins."""

    name: str
    """Its name."""


_CLASSES: dict[str, type[Event]] = {
    "planned": Planned,
    "step_begun": StepBegun,
    "step_done": StepDone,
    "waiting": Waiting,
    "undoing": Undoing,
    "making": Making,
    "made": Made,
    "creating": Creating,
    "created": Created,
    "attached": Attached,
    "mounted": Mounted,
    "prepared": Prepared,
    "checking": Checking,
}


def event_of(data: Mapping[str, Any]) -> Event:
    """The event that the engine describes so; the base for one that this file does not know yet."""
    return _CLASSES.get(data["event"], Event).from_dict(data)
