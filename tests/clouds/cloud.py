"""What every cloud of the set offers: to its clients an API, to the tests a way to lay out its world and to disturb it.

A cloud is a module `clouds.<name>` with a function `start(place: Place) -> Cloud`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .disks import GIB, DiskError, Store
from .faults import BadControl, CallLog, FaultPlan, Settings

CONTROL = "/_control/"


@dataclass(frozen=True)
class Place:
    """Where a cloud lives."""

    root: Path
    """Its own directory, which exists and is empty."""
    store: Store
    """The disks, shared by all clouds of the set."""
    tls: bool = False
    """Whether the main API is also served as the cloud's own host, by HTTPS (`httpd.as_host`)."""


class Unknown(BadControl):
    """There is no instance or disk of that name."""


class Cloud(ABC):
    """One cloud. Its methods may be called from any thread."""

    name: str

    def __init__(self, place: Place) -> None:
        """An empty world without faults."""
        self.place = place
        self.store = place.store
        self.faults = FaultPlan()
        self.calls = CallLog()
        self.settings = Settings()

    @abstractmethod
    def endpoints(self) -> dict[str, str]:
        """URLs of its servers: `api`, which also answers `/_control/`, and `store`, the object store. `catalog` is an empty
        place in that, as our program is told it: `s3://backups/catalog`. `tls`, where it was wanted, is `api` again."""

    @abstractmethod
    def env(self) -> dict[str, str]:
        """The variables by which our program, the official clients and stock Barman find it."""

    @abstractmethod
    def close(self) -> None:
        """Stops its servers. The disks are the set's, and go later."""

    @abstractmethod
    def create_instance(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        """A running machine with a boot disk (without bytes). `more` is the cloud's own. Says its `id` and `name`."""

    @abstractmethod
    def create_disk(self, name: str, size_gib: int, more: dict[str, Any]) -> dict[str, Any]:
        """An empty data disk. Says its `id` and `name`."""

    @abstractmethod
    def attach(self, instance: str, disk: str, device: str | None) -> dict[str, Any]:
        """Attaches a disk. `device` is a device name on AWS and Google, a LUN on Azure; null for a free one that no
        other set of clouds on this machine uses. Says `device` (as the API calls it) and `paths`, below /dev."""

    @abstractmethod
    def detach(self, disk: str) -> dict[str, Any]:
        """Detaches a disk."""

    @abstractmethod
    def destroy(self, disk: str) -> dict[str, Any]:
        """The disk is lost with its bytes, attached or not, and the API does not know it any more."""

    @abstractmethod
    def world(self) -> dict[str, Any]:
        """`instances`, `disks` and `snapshots`, each a list of objects with at least `id`, `name` and `state`; a disk
        also with `instance`, `device` and `paths` while it is attached."""

    def control(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Answers a request to `/_control/`: status and JSON."""
        try:
            data = json.loads(body) if body else {}
            return 200, self._control(method, path.removeprefix(CONTROL), data)
        except Unknown as error:
            return 404, {"error": str(error)}
        except (BadControl, DiskError, ValueError) as error:
            return 400, {"error": str(error)}
        except (KeyError, TypeError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}

    def _control(self, method: str, what: str, data: Any) -> Any:
        match method, what:
            case "GET", "world":
                return self.world()
            case "GET", "calls":
                return self.calls.list()
            case "GET", "faults":
                return self.faults.left()
            case "GET", "settings":
                return vars(self.settings)
            case "POST", "faults":
                self.faults.set(data)
            case "POST", "settings":
                self.settings.update(data)
            case "POST", "reset":
                self.faults.set([])
                self.calls.clear()
                self.settings.reset()
            case "POST", "instances":
                return self.create_instance(data.pop("name"), data)
            case "POST", "disks":
                return self.create_disk(data.pop("name"), data.pop("size_gib"), data)
            case "POST", "attach":
                return self.attach(data["instance"], data["disk"], data.get("device"))
            case "POST", "detach":
                return self.detach(data["disk"])
            case "POST", "destroy":
                return self.destroy(data["disk"])
            case _:
                raise Unknown(f"no control request {method} {what}")
        return {}


def gib(size: int) -> int:
    """Bytes of so many GiB, the unit of every cloud."""
    return size * GIB
