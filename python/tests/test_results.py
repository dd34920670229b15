"""Results are good values: they compare, show themselves, and go to JSON and back."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from barman_snap import Backup, events, provider, results
from barman_snap._record import Record
from barman_snap.events import Event, StepDone, event_of
from barman_snap.results import CatalogEntry, Deletion, Restored, SetAside

BACKUP = {
    "backup_id": "20260529T101112",
    "begin_lsn": "0/3000028",
    "end_lsn": "0/3000120",
    "snapshots": ["data-20260529t101112"],
    "backup_mode_ms": 1500,
    "cut_ms": 20,
    "bytes_copied": None,
    "wal_supplied": [],
    "archived_elsewhere": None,
    "of_a_later_version": {"a": [1]},
}


def test_a_result_is_made_of_what_the_engine_says() -> None:
    backup = Backup.from_dict(BACKUP)
    assert (backup.backup_mode, backup.cut) == (timedelta(seconds=1.5), timedelta(milliseconds=20))
    assert backup.snapshots == ("data-20260529t101112",)
    assert repr(backup) == (
        "Backup(backup_id='20260529T101112', begin_lsn='0/3000028', end_lsn='0/3000120', "
        "snapshots=('data-20260529t101112',), backup_mode=datetime.timedelta(seconds=1, microseconds=500000), "
        "cut=datetime.timedelta(microseconds=20000))"
    )


def test_nothing_that_the_engine_says_is_lost() -> None:
    data = Backup.from_dict(BACKUP).to_dict()
    assert data == BACKUP and json.loads(json.dumps(data)) == BACKUP
    data["of_a_later_version"]["a"].append(2)
    assert Backup.from_dict(BACKUP).to_dict() == BACKUP, "what to_dict returns belongs to the caller"


def test_results_compare_by_their_fields_and_cannot_be_changed() -> None:
    one, two = Backup.from_dict(BACKUP), Backup.from_dict(BACKUP)
    assert one == two and hash(one) == hash(two) and one != dataclasses.replace(one, end_lsn="0/4000000")
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(one)).to_dict() == BACKUP
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.end_lsn = "0/0"  # type: ignore[misc]


def test_what_is_made_by_hand_goes_to_json_and_back() -> None:
    restored = Restored(Path("/srv/data"), timedelta(seconds=2), (SetAside(Path("/a"), Path("/b")),))
    data = restored.to_dict()
    assert data == {
        "target": "/srv/data",
        "duration_ms": 2000,
        "set_aside": [{"from": "/a", "to": "/b"}],
        "bytes_copied": None,
    }
    assert Restored.from_dict(json.loads(json.dumps(data))) == restored


@pytest.mark.parametrize(
    "text, microsecond",
    [
        ("2026-05-29T10:11:13Z", 0),
        ("2026-05-29T10:11:13.5Z", 500_000),
        ("2026-05-29T10:11:13.123456+00:00", 123_456),
        ("2026-05-29T10:11:13.123456789Z", 123_456),
    ],
)
def test_times_have_a_zone(text: str, microsecond: int) -> None:
    entry = CatalogEntry.from_dict({"backup_id": "x", "status": "DONE", "begin_time_iso": text})
    assert entry.begin_time == datetime(2026, 5, 29, 10, 11, 13, microsecond, timezone.utc)


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(TypeError, match="backup_id"):
        Backup.from_dict({})
    assert Deletion.from_dict({}) == Deletion()


def test_an_event_is_of_its_class_and_one_of_a_later_version_is_an_event() -> None:
    data = {"event": "step_done", "step": "start", "phase": "started", "elapsed_ms": 7}
    assert event_of(data) == StepDone("step_done", "start", "started", timedelta(milliseconds=7))
    later = event_of({"event": "brand_new", "more": 1})
    assert type(later) is Event and later.to_dict() == {"event": "brand_new", "more": 1}


def test_every_field_says_what_it_is() -> None:
    for module in (results, events, provider):
        source = inspect.getsource(module)
        for name in module.__all__:
            value = getattr(module, name)
            assert value.__doc__, name
            for field in dataclasses.fields(value) if issubclass(value, Record) else ():
                assert f"    {field.name}: " in source, f"{name}.{field.name}"
