"""The bridge to ``logging``: nothing until it is asked for, then what the engine logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import barman_snap
from barman_snap import Engine
from conftest import Server


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    barman_snap.disable_logging()


def test_nothing_is_logged_until_it_is_asked_for(
    place: Path, postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    engine = Engine(place / "catalog", "pg1")

    engine.backup(postgres.dsn, immediate_checkpoint=True).run()
    assert not caplog.records

    barman_snap.enable_logging(logging.DEBUG)
    engine.backup(postgres.dsn, immediate_checkpoint=True).run()
    names = {record.name for record in caplog.records}
    assert "barman_snap.session.progress" in names and all(name.split(".")[0] == "barman_snap" for name in names)
    assert "planned" in caplog.text and {logging.INFO, logging.DEBUG} <= {each.levelno for each in caplog.records}

    caplog.clear()
    barman_snap.enable_logging(logging.WARNING)
    engine.backup(postgres.dsn, immediate_checkpoint=True).run()
    assert all(record.levelno >= logging.WARNING for record in caplog.records)

    caplog.clear()
    barman_snap.disable_logging()
    engine.backup(postgres.dsn, immediate_checkpoint=True).run()
    assert not caplog.records
