"""What all results have in common: immutable, comparable, with a short ``repr``, and made of and turned into JSON."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T", bound="Record")


# Finding out the annotations of a class takes longer than all the rest.
_TYPES: dict[type[Any], dict[str, Any]] = {}


def _types(cls: type[Any]) -> dict[str, Any]:
    if cls not in _TYPES:
        _TYPES[cls] = get_type_hints(cls)
    return _TYPES[cls]


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))


def _load(kind: Any, value: Any) -> Any:
    """A value of JSON as what the annotation of its field says."""
    if value is None:
        return None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:
        return _load(next(each for each in arguments if each is not type(None)), value)
    if origin is tuple:
        return tuple(_load(arguments[0], each) for each in value)
    if isinstance(kind, type):
        if issubclass(kind, Record):
            return kind.from_dict(value)
        if kind is Path:
            return Path(value)
        if kind is timedelta:
            return timedelta(milliseconds=value)
        if kind is datetime:
            # Python 3.9 reads no Z, nor more or less than six digits of a second.
            head, dot, rest = value.replace("Z", "+00:00").partition(".")
            digits = rest[: next((i for i, c in enumerate(rest) if not c.isdigit()), len(rest))]
            return datetime.fromisoformat(head + (dot and f".{digits:0<6.6}{rest[len(digits):]}"))
    return value


def _dump(value: Any) -> Any:
    """What `_load` makes such a value of."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_dump(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _dump(each) for key, each in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, timedelta):
        return round(value / timedelta(milliseconds=1))
    if isinstance(value, datetime):
        return value.isoformat()
    return value


@dataclasses.dataclass(frozen=True, repr=False)
class Record:
    """The base of all results: frozen dataclasses.

    A field with the metadata ``flat`` has its keys among those of the record. They compare by their fields. Their ``repr`` leaves out what is empty. `to_dict` gives all that the engine said, also
    what has no field of its own, with times in milliseconds as the engine, the C library and ``--format json`` have them.
    """

    @classmethod
    def from_dict(cls: type[_T], data: Mapping[str, Any]) -> _T:
        """The record that `to_dict` gave this for. Unknown keys are kept; missing ones are errors, unless their fields have
        defaults."""
        types = _types(cls)
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.metadata.get("flat"):
                values[field.name] = _load(types[field.name], data)
            elif _key(field) in data:
                values[field.name] = _load(types[field.name], data[_key(field)])
        made = cls(**values)
        object.__setattr__(made, "_data", dict(data))
        return made

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that ``json`` can write. A new dictionary each time."""
        data: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = _dump(getattr(self, field.name))
            data.update(value if field.metadata.get("flat") else {_key(field): value})
        return {**data, **copy.deepcopy(self.__dict__.get("_data", {}))}

    def __repr__(self) -> str:
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value != () and value != {}:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"
