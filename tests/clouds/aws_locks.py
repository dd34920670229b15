"""Locks of EBS snapshots: LockSnapshot, UnlockSnapshot, DescribeLockedSnapshots, and what DeleteSnapshot asks them.

The rules are those of https://docs.aws.amazon.com/ebs/latest/userguide/snapshot-lock-concepts.html and of the API pages.
The error codes of refused changes are our guess where the pages name none; `SnapshotLocked` for deletion is AWS's own.

A lock counts in days. `more.day_ms` of the settings makes the day of locks shorter, so that tests can see one expire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from moto.ec2.exceptions import EC2ClientError

from .faults import Settings


def now() -> datetime:
    """The present time, with its zone."""
    return datetime.now(timezone.utc)


@dataclass
class Lock:
    """One lock. Times are known only when the snapshot is complete, as the duration starts then."""

    mode: str
    cool_off: int | None
    days: int | None
    until: datetime | None
    created: datetime


class Locks:
    """All locks of one cloud, also those that have expired."""

    def __init__(self, settings: Settings, completed: Callable[[str], datetime | None]) -> None:
        """`completed` tells when a snapshot was completed, if it is."""
        self._settings = settings
        self._completed = completed
        self._locks: dict[str, Lock] = {}

    def _days(self, count: float) -> timedelta:
        return timedelta(milliseconds=count * self._settings.more.get("day_ms", 86_400_000))

    def _cool_off_ends(self, lock: Lock) -> datetime | None:
        return lock.created + self._days(lock.cool_off / 24) if lock.cool_off else None

    def _starts(self, snapshot: str, lock: Lock) -> datetime | None:
        completed = self._completed(snapshot)
        return None if completed is None else max(completed, lock.created)

    def _expires(self, snapshot: str, lock: Lock) -> datetime | None:
        if lock.until is not None:
            return lock.until
        starts = self._starts(snapshot, lock)
        return None if starts is None else starts + self._days(lock.days or 0)

    def state(self, snapshot: str) -> str | None:
        """`governance`, `compliance-cooloff`, `compliance` or `expired`; none without a lock."""
        lock = self._locks.get(snapshot)
        if lock is None:
            return None
        expires = self._expires(snapshot, lock)
        if expires is not None and now() >= expires:
            return "expired"
        if lock.mode == "governance":
            return "governance"
        cool_off = self._cool_off_ends(lock)
        return "compliance-cooloff" if cool_off is not None and now() < cool_off else "compliance"

    def holds(self, snapshot: str) -> bool:
        """Whether the snapshot must not be deleted."""
        return self.state(snapshot) not in (None, "expired")

    def lock(self, snapshot: str, state: str, ask: dict[str, Any]) -> None:
        """Locks a snapshot in this state, or changes its lock. `ask` are the parameters of the call."""
        if state not in ("pending", "completed"):
            raise EC2ClientError("IncorrectState", f"The snapshot {snapshot} is in state {state} and cannot be locked.")
        wanted = self._parse(ask)
        if self.state(snapshot) == "compliance":
            self._check_extension(snapshot, wanted)
            # Beyond the cooling-off period the lock is the old one, and only lasts longer.
            old = self._locks[snapshot]
            old.days, old.until = wanted.days, wanted.until
        else:
            self._locks[snapshot] = wanted

    @staticmethod
    def _parse(ask: dict[str, Any]) -> Lock:
        mode, cool_off = ask.get("LockMode"), ask.get("CoolOffPeriod")
        days, until = ask.get("LockDuration"), ask.get("ExpirationDate")
        if mode is None:
            raise EC2ClientError("MissingParameter", "The request must contain the parameter LockMode")
        if mode not in ("governance", "compliance"):
            raise EC2ClientError("InvalidParameterValue", f"Invalid value '{mode}' for LockMode.")
        if days is None and until is None:
            raise EC2ClientError("MissingParameter", "Specify either LockDuration or ExpirationDate.")
        if days is not None and until is not None:
            raise EC2ClientError("InvalidParameterCombination", "LockDuration and ExpirationDate exclude each other.")
        if mode == "governance" and cool_off is not None:
            raise EC2ClientError("InvalidParameterCombination", "CoolOffPeriod cannot be used in governance mode.")
        if cool_off is not None and not 1 <= cool_off <= 72:
            raise EC2ClientError("InvalidParameterValue", "CoolOffPeriod must be from 1 to 72 hours.")
        if days is not None and not 1 <= days <= 36500:
            raise EC2ClientError("InvalidParameterValue", "LockDuration must be from 1 to 36500 days.")
        if until is not None:
            until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
            if until <= now():
                raise EC2ClientError("InvalidParameterValue", "ExpirationDate must be in the future.")
        return Lock(mode, cool_off, days, until, now())

    def _check_extension(self, snapshot: str, wanted: Lock) -> None:
        old = self._locks[snapshot]
        wanted.created = old.created
        before, after = self._expires(snapshot, old), self._expires(snapshot, wanted)
        shorter = before is not None and after is not None and after < before
        if before is None or after is None:
            shorter = (wanted.days or 0) < (old.days or 0)
        if wanted.mode != "compliance" or wanted.cool_off is not None or shorter:
            reason = "is locked in compliance mode; its lock can only be extended."
            raise EC2ClientError("SnapshotLocked", f"The snapshot {snapshot} {reason}")

    def unlock(self, snapshot: str) -> None:
        """Removes a lock that may be removed."""
        state = self.state(snapshot)
        if state is None or state == "expired":
            raise EC2ClientError("IncorrectState", f"The snapshot {snapshot} is not locked.")
        if state == "compliance":
            raise EC2ClientError("SnapshotLocked", f"The snapshot {snapshot} is locked in compliance mode.")
        del self._locks[snapshot]

    def forget(self, snapshot: str) -> None:
        """The snapshot is deleted."""
        self._locks.pop(snapshot, None)

    def described(self, snapshot: str) -> dict[str, Any] | None:
        """As in the answers of the API; none without a lock."""
        lock = self._locks.get(snapshot)
        if lock is None:
            return None
        expires, starts = self._expires(snapshot, lock), self._starts(snapshot, lock)
        days = lock.days
        if days is None and expires is not None:
            days = max(1, -(-(expires - (starts or lock.created)) // self._days(1)))
        found = {
            "SnapshotId": snapshot,
            "LockState": self.state(snapshot),
            "LockDuration": days,
            "CoolOffPeriod": lock.cool_off,
            "CoolOffPeriodExpiresOn": self._cool_off_ends(lock),
            "LockCreatedOn": lock.created,
            "LockDurationStartTime": starts,
            "LockExpiresOn": expires,
        }
        return {name: value for name, value in found.items() if value is not None}
