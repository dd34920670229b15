"""What goes wrong on purpose, what was called, and how long things take. All of it is set by the tests while they run.

Invariant: a fault of kind `throttle`, `fail`, `denied` or `hang` has no effect on the cloud; `lost_reply`, `delay` and
`late` have the whole effect.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

KINDS = ("throttle", "fail", "hang", "lost_reply", "denied", "delay", "late")


class BadControl(Exception):
    """A control request that makes no sense. Tests shall fail by it, and not do something else than they say."""


@dataclass
class Fault:
    """One line of the plan."""

    action: str
    """The name of an action, or `*`."""
    kind: str
    """One of `KINDS`."""
    skip: int = 0
    """So many calls pass first."""
    times: int | None = 1
    """So many calls are hit after that; null for all."""
    seconds: float = 0
    """For `hang`, `delay` and `late`; for `throttle` what Retry-After says, where the cloud has it. Without, there is none."""
    match: dict[str, str] = field(default_factory=dict)
    """`{"resource": part}`: only calls whose resource contains this."""

    @classmethod
    def parse(cls, data: Any) -> Fault:
        """From JSON."""
        known = {each.name for each in fields(cls)}
        if not isinstance(data, dict) or set(data) - known or not {"action", "kind"} <= set(data):
            raise BadControl(f"a fault has action and kind, and may have {sorted(known)}: {data!r}")
        if data["kind"] not in KINDS:
            raise BadControl(f"the kind of a fault is one of {KINDS}, not {data['kind']!r}")
        if set(data.get("match", {})) - {"resource"}:
            raise BadControl(f"only the resource can be matched: {data['match']!r}")
        return cls(**data)

    def meets(self, action: str, resource: str) -> bool:
        """Whether a call is one of those that it counts."""
        return self.action in ("*", action) and self.match.get("resource", "") in resource


class FaultPlan:
    """The faults, in order. The first that meets a call and is due hits it; every one that meets it counts it."""

    def __init__(self) -> None:
        """No faults."""
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def set(self, data: Any) -> None:
        """Replaces the plan by a JSON list."""
        if not isinstance(data, list):
            raise BadControl("the plan is a list of faults")
        faults = [Fault.parse(each) for each in data]
        with self._lock:
            self._faults = faults

    def left(self) -> list[dict[str, Any]]:
        """What is still to come."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def take(self, action: str, resource: str) -> Fault | None:
        """The fault that hits this call."""
        hit = None
        with self._lock:
            for fault in self._faults:
                if not fault.meets(action, resource):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                elif hit is None and fault.times != 0:
                    hit = fault
            if hit is not None and hit.times is not None:
                hit.times -= 1
        return hit


@dataclass
class Call:
    """One request to the API of a cloud."""

    number: int
    action: str
    """As the cloud's list of permissions names it, so that the log tells which ones are needed."""
    resource: str
    """What it was about: ids and names, separated by blanks."""
    time: float
    """When it came: seconds since 1970."""
    dry_run: bool = False
    fault: str | None = None
    """The kind of the fault that hit it."""
    status: int | None = None
    """The HTTP status of the answer; null while there is none, 0 when the connection was closed without one."""
    code: str | None = None
    """The cloud's own word for an error."""
    seconds: float | None = None
    """How long it took."""


class CallLog:
    """Every call since the start, or the last reset."""

    def __init__(self) -> None:
        """An empty one."""
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._calls: list[Call] = []

    def begin(self, action: str, resource: str, fault: str | None, dry_run: bool = False) -> Call:
        """Writes down a call that has come."""
        with self._lock:
            call = Call(next(self._numbers), action, resource, time.time(), dry_run, fault)
            self._calls.append(call)
            return call

    def end(self, call: Call, status: int, code: str | None = None) -> None:
        """Adds how it was answered."""
        with self._lock:
            call.status, call.code, call.seconds = status, code, time.time() - call.time

    def list(self) -> list[dict[str, Any]]:
        """All of them, for JSON."""
        with self._lock:
            return [asdict(call) for call in self._calls]

    def clear(self) -> None:
        """Forgets them."""
        with self._lock:
            self._calls = []


@dataclass
class Settings:
    """How the cloud behaves. A cloud may add its own under `more`."""

    cut_ms: int = 0
    """From the request of a snapshot to its cut."""
    ready_ms: int = 0
    """From the cut until it is ready."""
    fail_after_cut: list[str] = field(default_factory=list)
    """Names of disks whose snapshots fail after the cut, instead of getting ready."""
    max_concurrent: int | None = None
    """How many snapshots of one disk may be unfinished; null for the cloud's own limit."""
    lag_ms: int = 0
    """Lists of snapshots do not show what is younger."""
    min_interval_ms: int = 0
    """The shortest time between two snapshots of one disk; 0 for no limit."""
    more: dict[str, Any] = field(default_factory=dict)
    """What only one cloud knows; its module says what."""

    def update(self, data: Any) -> None:
        """Changes what is named, and nothing else."""
        known = {each.name for each in fields(self)}
        if not isinstance(data, dict) or set(data) - known:
            raise BadControl(f"the settings are {sorted(known)}: {data!r}")
        for name, value in data.items():
            setattr(self, name, {**self.more, **value} if name == "more" else value)

    def reset(self) -> None:
        """As at the start."""
        fresh = Settings()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
