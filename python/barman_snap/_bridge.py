"""What the engine calls of a provider: JSON in, JSON out. The other side is ``provider.rs``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Optional, TypeVar

from ._record import Record
from .exceptions import InvalidInputError
from .provider import (
    CreateRequest,
    CreateVolumeRequest,
    Instance,
    RestoredVolume,
    SnapshotProvider,
    Ticket,
    Volume,
    VolumeSelection,
)

_R = TypeVar("_R", bound=Record)


def _many(cls: type[_R], data: Any) -> tuple[_R, ...]:
    return tuple(cls.from_dict(each) for each in data)


def _json(value: Optional[Record]) -> str:
    return json.dumps(None if value is None else value.to_dict())


def _array(values: Sequence[Record]) -> str:
    return json.dumps([value.to_dict() for value in values])


class Bridge:
    """A provider, for the engine."""

    def __init__(self, provider: SnapshotProvider) -> None:
        name = getattr(provider, "name", None)
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or name != name.lower():
            raise InvalidInputError(
                f"not a name for a provider: {name!r} (set the class attribute `name` of {type(provider).__name__})"
            )
        self._provider = provider
        self.name = name
        self.atomic = bool(provider.atomic)
        self.directory_restore = bool(provider.directory_restore)
        self.host_bound = bool(provider.host_bound)

    def instance(self, arguments: str) -> str:
        (name,) = json.loads(arguments)
        return _json(self._provider.instance(name))

    def volumes(self, arguments: str) -> str:
        instance, selection = json.loads(arguments)
        return _array(self._provider.volumes(Instance.from_dict(instance), VolumeSelection.from_dict(selection)))

    def snapshot_name(self, arguments: str) -> str:
        volume, backup_id = json.loads(arguments)
        return json.dumps(self._provider.snapshot_name(Volume.from_dict(volume), backup_id))

    def can_group(self, arguments: str) -> str:
        (volumes,) = json.loads(arguments)
        return json.dumps(bool(self._provider.can_group(_many(Volume, volumes))))

    def check_requests(self, arguments: str) -> str:
        (requests,) = json.loads(arguments)
        self._provider.check_requests(_many(CreateRequest, requests))
        return _json(None)

    def create(self, arguments: str) -> str:
        (request,) = json.loads(arguments)
        return _array(self._provider.create(CreateRequest.from_dict(request)))

    def status(self, arguments: str) -> str:
        (ticket,) = json.loads(arguments)
        return _json(self._provider.status(Ticket.from_dict(ticket)))

    def find(self, arguments: str) -> str:
        token, volumes = json.loads(arguments)
        return _array(self._provider.find(token, _many(Volume, volumes)))

    def list(self, arguments: str) -> str:
        mark, volumes = json.loads(arguments)
        return _array(self._provider.list(mark, _many(Volume, volumes)))

    def delete(self, arguments: str) -> str:
        (ticket,) = json.loads(arguments)
        self._provider.delete(Ticket.from_dict(ticket))
        return _json(None)

    def attached_from(self, arguments: str) -> str:
        instance, tickets = json.loads(arguments)
        volumes = self._provider.attached_from(Instance.from_dict(instance), _many(Ticket, tickets))
        return json.dumps([None if volume is None else volume.to_dict() for volume in volumes])

    def after_cut(self, arguments: str) -> str:
        volumes, grouped = json.loads(arguments)
        return _json(self._provider.after_cut(_many(Volume, volumes), grouped))

    def promote(self, arguments: str) -> str:
        requests, tickets = json.loads(arguments)
        return _array(self._provider.promote(_many(CreateRequest, requests), _many(Ticket, tickets)))

    def secure(self, arguments: str) -> str:
        requests, tickets = json.loads(arguments)
        return _array(self._provider.secure(_many(CreateRequest, requests), _many(Ticket, tickets)))

    def check_delete(self, arguments: str) -> str:
        (tickets,) = json.loads(arguments)
        self._provider.check_delete(_many(Ticket, tickets))
        return _json(None)

    def create_volume(self, arguments: str) -> str:
        (request,) = json.loads(arguments)
        return _json(self._provider.create_volume(CreateVolumeRequest.from_dict(request)))

    def attach(self, arguments: str) -> str:
        volume, instance = json.loads(arguments)
        return _json(self._provider.attach(RestoredVolume.from_dict(volume), Instance.from_dict(instance)))

    def detach(self, arguments: str) -> str:
        volume, instance = json.loads(arguments)
        self._provider.detach(RestoredVolume.from_dict(volume), Instance.from_dict(instance))
        return _json(None)

    def delete_volume(self, arguments: str) -> str:
        (volume,) = json.loads(arguments)
        self._provider.delete_volume(RestoredVolume.from_dict(volume))
        return _json(None)

    def list_volumes(self, arguments: str) -> str:
        (mark,) = json.loads(arguments)
        return _array(self._provider.list_volumes(mark))
