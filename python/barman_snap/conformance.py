"""The suites that every snapshot provider has to pass: the sentences of its contract, as tests.

The wheels on the package index leave them out; build one with ``maturin build --features conformance``. A test of a
provider is then a `Fixture` and one call of `run`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from . import _native
from ._bridge import Bridge
from ._record import Record
from .provider import RestoredVolume, SnapshotProvider

__all__ = ["Fixture", "Suite", "run"]


class Fixture(ABC):
    """What the suites need beside the provider."""

    @abstractmethod
    def provider(self) -> SnapshotProvider:
        """The provider."""

    @abstractmethod
    def later(self) -> SnapshotProvider:
        """Another one for the same volumes and snapshots that shares no memory with it, as a later process would have."""

    @abstractmethod
    def volume_names(self) -> Sequence[str]:
        """Names of volumes, as a user would give them: at least one, better two. Nobody else uses them."""

    @abstractmethod
    def scratch(self) -> Union[str, Path]:
        """The path of a directory that does not exist, another one each time."""

    def open(self, volume: RestoredVolume) -> Optional[Path]:
        """Makes the content of a restored and attached volume readable, and says in which directory it is; ``None`` skips
        the suites that need it."""
        return volume.path

    def close(self, volume: RestoredVolume) -> None:
        """Undoes `open`."""

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file on a volume; makes its directories as needed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@dataclass(frozen=True, repr=False)
class Suite(Record):
    """One suite that the provider has passed, or that does not apply."""

    name: str
    """The sentence of the contract."""

    skipped: Optional[str] = None
    """Why it does not apply."""


def run(fixture: Fixture) -> tuple[Suite, ...]:
    """Runs every suite. Raises ``AssertionError`` where the provider breaks the contract; the message says which sentence
    it broke. Suites clean up what they make."""
    return tuple(Suite(name, skipped) for name, skipped in _native.run_conformance(_Adapter(fixture), Bridge))


class _Adapter:
    """A fixture, for the engine: volumes come as JSON."""

    def __init__(self, fixture: Fixture) -> None:
        self.provider = fixture.provider
        self.later = fixture.later
        self.volume_names = fixture.volume_names
        self.scratch = fixture.scratch
        self.write = fixture.write
        self._fixture = fixture

    def open(self, volume: str) -> Optional[Path]:
        return self._fixture.open(RestoredVolume.from_dict(json.loads(volume)))

    def close(self, volume: str) -> None:
        self._fixture.close(RestoredVolume.from_dict(json.loads(volume)))
