"""Providers that are written in Python: the example passes the suites, and takes real backups."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import barman_snap
from barman_snap import Engine, conformance
from barman_snap.provider import CreateRequest, SnapshotProvider, Ticket
from conftest import EXAMPLES, Server, as_server_user, clean_slate, ids


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("copy_provider", EXAMPLES / "copy_provider.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CopyProvider: Any = _example().CopyProvider


class Copies(conformance.Fixture):
    """Two directories and a store."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.volumes = [place / "a", place / "b"]
        for volume in self.volumes:
            volume.mkdir()
        self._numbers = itertools.count()

    def provider(self) -> SnapshotProvider:
        provider: SnapshotProvider = CopyProvider(self.place / "store", self.volumes)
        return provider

    def later(self) -> SnapshotProvider:
        return self.provider()

    def volume_names(self) -> Sequence[str]:
        return [str(volume) for volume in self.volumes]

    def scratch(self) -> Path:
        return self.place / f"scratch-{next(self._numbers)}"


def test_the_example_passes_the_suites(tmp_path: Path) -> None:
    try:
        passed = conformance.run(Copies(tmp_path))
    except barman_snap.UnsupportedError as error:
        pytest.skip(str(error))
    assert len(passed) >= 26 and not [suite for suite in passed if suite.skipped]
    assert not list((tmp_path / "store").iterdir()), "nothing is left"


def test_a_provider_that_breaks_the_contract_is_told_which_sentence(tmp_path: Path) -> None:
    class Forgetful(CopyProvider):  # type: ignore[misc]
        def find(self, token: str, volumes: object) -> list[Ticket]:
            return []

    class Broken(Copies):
        def provider(self) -> SnapshotProvider:
            provider: SnapshotProvider = Forgetful(self.place / "store", self.volumes)
            return provider

    with pytest.raises((AssertionError, barman_snap.UnsupportedError)) as raised:
        conformance.run(Broken(tmp_path))
    if isinstance(raised.value, barman_snap.UnsupportedError):
        pytest.skip(str(raised.value))
    assert "find returns what create returned" in str(raised.value)


def test_the_example_takes_a_backup_that_becomes_a_server_again(
    place: Path, postgres: Server, restored: Server, python: Path
) -> None:
    postgres.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g")
    program = place / "copy_provider.py"
    program.write_text((EXAMPLES / "copy_provider.py").read_text())
    words = (place / "store", postgres.data, place / "catalog", "pg1", postgres.dsn, restored.data)
    ran = as_server_user(python, program, *words)
    assert "is published" in ran.stdout and f"restored to {restored.data}" in ran.stdout
    assert "StepDone(event='step_done', step='snapshot'" in ran.stderr
    restored.start()
    assert restored.sql("SELECT count(*), sum(g) FROM t") == "10000|50005000"
    # The catalog knows whose snapshots these are: another provider does not touch them.
    with pytest.raises(barman_snap.Error, match="copies"):
        Engine(place / "catalog", "pg1").delete("last")
    engine = Engine(place / "catalog", "pg1", snapshot_provider=CopyProvider(place / "store", [postgres.data]))
    (deleted,) = engine.delete("last").backups
    assert deleted.provider == "copies" and not list((place / "store").glob("*/ticket.json"))
    assert clean_slate(engine)


def test_what_a_provider_raises_comes_out_as_the_cause(place: Path, postgres: Server) -> None:
    class Failing(CopyProvider):  # type: ignore[misc]
        def create(self, request: CreateRequest) -> Sequence[Ticket]:
            raise ZeroDivisionError("no more tapes")

    class Full(CopyProvider):  # type: ignore[misc]
        def check_requests(self, requests: Sequence[CreateRequest]) -> None:
            raise barman_snap.ExhaustedError("the store is full", retry="safe", hint="buy another one")

    class Nameless(CopyProvider):  # type: ignore[misc]
        def snapshot_name(self, volume: object, backup_id: str) -> str:
            raise LookupError("what is in a name")

    def engine(cls: Any) -> Engine:
        return Engine(place / "catalog", "pg1", snapshot_provider=cls(place / "store", [postgres.data]))

    failing = engine(Failing)
    with pytest.raises(barman_snap.ProviderError, match="create.*ZeroDivisionError: no more tapes") as failed:
        failing.backup(postgres.dsn, immediate_checkpoint=True).run()
    assert isinstance(failed.value.__cause__, ZeroDivisionError) and failed.value.context["ended"] == "undone"
    with pytest.raises(barman_snap.ExhaustedError, match="the store is full") as full:
        engine(Full).backup(postgres.dsn)
    assert (full.value.retry, full.value.hint) == ("safe", "buy another one")
    with pytest.raises(barman_snap.ProviderError, match="snapshot_name.*what is in a name"):
        engine(Nameless).backup(postgres.dsn)
    assert clean_slate(failing) and not ids(failing)


def test_a_provider_needs_a_name_of_its_own(tmp_path: Path) -> None:
    class Nameless(CopyProvider):  # type: ignore[misc]
        name = None

    class Local(CopyProvider):  # type: ignore[misc]
        name = "local"

    for cls in (Nameless, Local):
        with pytest.raises(barman_snap.InvalidInputError, match="name"):
            Engine(tmp_path, "pg1", snapshot_provider=cls(tmp_path / "store", []))


def test_an_incomplete_provider_cannot_be_made() -> None:
    class Half(SnapshotProvider):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]
