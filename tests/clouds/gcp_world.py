"""What the fake of Google Cloud knows: projects with instances, disks, snapshots, policies and operations.

Every resource is kept as the JSON that the API shows, by its *link* (`projects/P/zones/Z/disks/D`). What has bytes has them
beside it. An operation goes on until its `done` says so; every request settles those that have come to their end.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from .disks import Disk
from .life import Phase, Snapshot

PROJECTS = ("proj-1", "proj-2")
REGION = "europe-west1"
ZONES = tuple(f"{REGION}-{letter}" for letter in "bcd")

Resource = dict[str, Any]

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")


class Refusal(Exception):
    """An error as the API words it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """HTTP status, `reason` and message of the body."""
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class OperationFailed(Exception):
    """An error that only the operation tells."""

    def __init__(self, code: str, status: int, phrase: str, message: str) -> None:
        """Code and message of `error.errors`, and what the HTTP fields say."""
        super().__init__(message)
        self.code, self.status, self.phrase, self.message = code, status, phrase, message


@dataclass
class Operation:
    """One operation."""

    resource: Resource
    done: Callable[[], bool]
    """Whether its work is done; may raise `OperationFailed`."""


@dataclass
class Bytes:
    """A resource and what lies behind it."""

    shown: Resource
    disk: Disk | None = None
    snapshot: Snapshot | None = None
    requested: float = field(default_factory=time.time)


def timestamp(at: float | None = None) -> str:
    """A time as the API writes it."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_link(text: str) -> str | None:
    """The part of a URL from `projects/` on."""
    match = re.search(r"(?:^|/)(projects/[^/]+/(?:global|zones/[^/]+|regions/[^/]+)/[^/]+/[^/]+)$", text)
    return match[1] if match else None


def kind_of(link: str) -> str:
    """`disks`, `snapshots`, …"""
    return link.split("/")[-2]


def name_of(link: str) -> str:
    """The last part."""
    return link.rsplit("/", 1)[-1]


def scope_of(link: str) -> str:
    """`global`, `zones/Z` or `regions/R`."""
    return "/".join(link.split("/")[2:-2])


def region_of(scope: str) -> str:
    """The region in which a zone lies, or the region itself."""
    kind, _, place = scope.partition("/")
    return place.rsplit("-", 1)[0] if kind == "zones" else place


class World:
    """All resources. Its lock is held by whoever changes them."""

    def __init__(self) -> None:
        """Empty projects."""
        self.lock = threading.RLock()
        self.things: dict[str, Bytes] = {}
        self.operations: dict[str, Operation] = {}
        self.requests: dict[tuple[str, str], str] = {}
        self.base = ""
        """The URL before `projects/`."""
        self._ids = itertools.count(1_000_000_000_000_000_001)

    def new_id(self) -> str:
        """A number that no other resource has, as text: it does not fit into a JSON number."""
        return str(next(self._ids))

    def get(self, link: str) -> Bytes:
        """A resource. Not found is the API's own error."""
        try:
            return self.things[link]
        except KeyError:
            raise Refusal(404, "notFound", f"The resource '{link}' was not found") from None

    def add(self, link: str, kind: str, shown: Resource) -> Bytes:
        """Adds a resource with the members that all have."""
        if link in self.things:
            raise Refusal(409, "alreadyExists", f"The resource '{link}' already exists")
        place, _, where = scope_of(link).partition("/")
        common: Resource = {
            "kind": f"compute#{kind}",
            "id": self.new_id(),
            "creationTimestamp": timestamp(),
            "name": name_of(link),
            "selfLink": self.base + link,
        }
        if where:
            common[place.removesuffix("s")] = f"{self.base}{'/'.join(link.split('/')[:2])}/{place}/{where}"
        thing = Bytes({**common, **shown})
        self.things[link] = thing
        return thing

    def of_kind(self, kind: str, prefix: str = "") -> list[tuple[str, Bytes]]:
        """All resources of a kind, by name, whose link begins with `prefix`."""
        found = [
            (link, thing) for link, thing in self.things.items() if kind_of(link) == kind and link.startswith(prefix)
        ]
        return sorted(found)

    # Operations

    def operate(self, target: str, verb: str, done: Callable[[], bool], target_id: str) -> Resource:
        """A new operation on a resource."""
        project, scope = target.split("/")[1], scope_of(target)
        name = (
            f"operation-{int(time.time() * 1000)}-{uuid.uuid4().hex[:13]}-{uuid.uuid4().hex[:8]}-{uuid.uuid4().hex[:8]}"
        )
        link = f"projects/{project}/{scope}/operations/{name}"
        resource: Resource = {
            "kind": "compute#operation",
            "id": self.new_id(),
            "name": name,
            "operationType": verb,
            "targetLink": self.base + target,
            "targetId": target_id,
            "status": "RUNNING",
            "user": "tests@example.iam.gserviceaccount.com",
            "progress": 0,
            "insertTime": timestamp(),
            "startTime": timestamp(),
            "selfLink": self.base + link,
        }
        place, _, where = scope.partition("/")
        if where:
            resource[place.removesuffix("s")] = f"{self.base}projects/{project}/{place}/{where}"
        self.operations[link] = Operation(resource, done)
        return resource

    def settle(self) -> None:
        """Ends the operations whose work is done, whether or not somebody waits for them."""
        with self.lock:
            for link, operation in self.operations.items():
                if operation.resource["status"] != "DONE":
                    self.look(link)

    def look(self, link: str) -> Resource:
        """An operation as it is now."""
        operation = self.operations.get(link)
        if operation is None:
            raise Refusal(404, "notFound", f"The resource '{link}' was not found")
        shown = operation.resource
        if shown["status"] != "DONE":
            try:
                ended = operation.done()
            except OperationFailed as error:
                ended = True
                shown["error"] = {"errors": [{"code": error.code, "message": error.message}]}
                shown["httpErrorStatusCode"], shown["httpErrorMessage"] = error.status, error.phrase
            if ended:
                shown.update(status="DONE", progress=100, endTime=timestamp())
        return shown


SNAPSHOT_STATUS = {
    Phase.CREATING: "CREATING",
    Phase.COPYING: "UPLOADING",
    Phase.READY: "READY",
    Phase.FAILED: "FAILED",
}

INSTANT_STATUS = {
    Phase.CREATING: "CREATING",
    # An instant snapshot uploads nothing.
    Phase.COPYING: "READY",
    Phase.READY: "READY",
    Phase.FAILED: "FAILED",
}


def refreshed(link: str, thing: Bytes) -> Resource:
    """A resource as the API shows it now."""
    shown = dict(thing.shown)
    if thing.snapshot is not None and shown.get("status") != "DELETING":
        if kind_of(link) == "instantSnapshots":
            shown["status"] = INSTANT_STATUS[thing.snapshot.phase]
        else:
            phase = thing.snapshot.phase
            shown["status"] = SNAPSHOT_STATUS[phase]
            if phase is Phase.READY:
                shown["storageBytes"], shown["storageBytesStatus"] = str(1 << 20), "UP_TO_DATE"
                shown["downloadBytes"] = str(1 << 20)
    return shown
