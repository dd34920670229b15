"""The exceptions are those of the engine, and good exceptions."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import barman_snap
from barman_snap import _native, exceptions
from conftest import Server


def test_there_is_one_class_for_every_kind_of_the_engine() -> None:
    assert sorted(exceptions._BY_KIND) == sorted(_native.ERROR_KINDS)


def test_all_of_them_are_exported_and_derive_from_the_base() -> None:
    for each in exceptions._BY_KIND.values():
        assert issubclass(each, barman_snap.Error)
        assert getattr(barman_snap, each.__name__) is each
        assert each.__name__ in exceptions.__all__


def test_a_kind_of_a_newer_engine_is_the_base() -> None:
    assert exceptions._class_of("brand_new") is barman_snap.Error


def test_an_exception_survives_pickling() -> None:
    error = barman_snap.PostgresError("it said no", sqlstate="42501", context={"host": "pg1"})
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.sqlstate, copy.context) == (type(error), str(error), "42501", {"host": "pg1"})


def test_every_kind_of_the_engine_comes_out_with_all_it_says(tmp_path: Path) -> None:
    engine = barman_snap.Engine(tmp_path, "pg1")
    with pytest.raises(barman_snap.UnavailableError) as raised:
        engine.backup(f"host={tmp_path} connect_timeout=2")
    error = raised.value
    assert isinstance(error, barman_snap.Error)
    assert (error.kind, error.sqlstate, error.retry_after) == ("unavailable", None, None)
    assert error.retry in ("safe", "unknown") and error.operation == "backup"
    assert str(tmp_path) in str(error) and "\n" not in str(error)


def test_an_error_of_postgresql_keeps_its_sqlstate(postgres: Server, place: Path) -> None:
    engine = barman_snap.Engine(place / "catalog", "pg1")
    with pytest.raises(barman_snap.Error) as raised:
        engine.backup(postgres.dsn.replace("user=postgres", "user=nobody_here"))
    assert raised.value.sqlstate == "28000" and "nobody_here" in str(raised.value)
