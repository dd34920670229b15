"""The exceptions are those of the engine, and good exceptions."""

from __future__ import annotations

import pickle

import barman_snap
from barman_snap import _native, exceptions


def test_there_is_one_class_for_every_kind_of_the_engine() -> None:
    assert sorted(exceptions._BY_KIND) == sorted(_native.ERROR_KINDS)


def test_all_of_them_are_exported_and_derive_from_the_base() -> None:
    for each in exceptions._BY_KIND.values():
        assert issubclass(each, barman_snap.BarmanSnapError)
        assert getattr(barman_snap, each.__name__) is each
        assert each.__name__ in exceptions.__all__


def test_a_kind_of_a_newer_engine_is_the_base() -> None:
    assert exceptions._class_of("brand_new") is barman_snap.BarmanSnapError


def test_an_exception_survives_pickling() -> None:
    error = barman_snap.PostgresError("it said no", sqlstate="42501", context={"host": "pg1"})
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.sqlstate, copy.context) == (type(error), str(error), "42501", {"host": "pg1"})
