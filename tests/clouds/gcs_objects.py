"""Buckets and objects of the fake of Cloud Storage: what its two APIs, JSON and XML, share.

Every change makes a new generation, and a precondition is checked under the same lock as the change it guards.
https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone

_POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> str:
    """The checksum as Google writes it. Slow in Python: with `google-crc32c` installed that is used."""
    try:
        import google_crc32c

        return base64.b64encode(int(google_crc32c.value(data)).to_bytes(4, "big")).decode()
    except ImportError:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
        return base64.b64encode((crc ^ 0xFFFFFFFF).to_bytes(4, "big")).decode()


class StoreError(Exception):
    """An error that both APIs word in their own way."""

    def __init__(self, status: int, code: str, reason: str, message: str) -> None:
        """Status, the `Code` of the XML API, the `reason` of the JSON API."""
        super().__init__(message)
        self.status, self.code, self.reason, self.message = status, code, reason, message


def not_found(what: str) -> StoreError:
    """No such object."""
    return StoreError(404, "NoSuchKey", "notFound", f"No such object: {what}")


def not_met() -> StoreError:
    """A precondition does not hold."""
    return StoreError(
        412, "PreconditionFailed", "conditionNotMet", "At least one of the pre-conditions you specified did not hold."
    )


@dataclass
class Blob:
    """One generation of an object."""

    bucket: str
    name: str
    data: bytes
    generation: int
    content_type: str
    metadata: dict[str, str]
    headers: dict[str, str]
    """`cache-control`, `content-disposition`, `content-encoding`, `content-language` as they were sent."""
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    metageneration: int = 1
    storage_class: str = "STANDARD"
    kms_key: str | None = None

    def __post_init__(self) -> None:
        """The checksums are asked for often."""
        self.md5 = base64.b64encode(hashlib.md5(self.data, usedforsecurity=False).digest()).decode()
        self.crc = crc32c(self.data)

    @property
    def etag(self) -> str:
        """Of the XML API: the digest of the data, without quotes."""
        return base64.b64decode(self.md5).hex()

    @property
    def updated_at(self) -> str:
        """As the JSON API writes a time."""
        return rfc3339(self.updated)


@dataclass
class Preconditions:
    """What a request demands of the object as it is. Zero is: that there is none."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    def check(self, found: Blob | None) -> None:
        """Raises 412, or 304 for a `not` condition of a read; the caller knows which it is."""
        generation = found.generation if found else 0
        metageneration = found.metageneration if found else 0
        if self.generation is not None and self.generation != generation:
            raise not_met()
        if self.metageneration is not None and self.metageneration != metageneration:
            raise not_met()
        if self.not_generation is not None and self.not_generation == generation:
            raise not_met()
        if self.not_metageneration is not None and self.not_metageneration == metageneration:
            raise not_met()


def rfc3339(at: float) -> str:
    """A time as JSON."""
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Objects:
    """All buckets. Methods may be called from any thread."""

    def __init__(self) -> None:
        """None."""
        self.lock = threading.RLock()
        self._buckets: dict[str, dict[str, Blob]] = {}
        self.projects: dict[str, str] = {}
        self.created: dict[str, float] = {}
        self._generations = itertools.count(int(time.time() * 1_000_000))

    def make_bucket(self, bucket: str, project: str) -> None:
        """An empty bucket."""
        with self.lock:
            if bucket in self._buckets:
                raise StoreError(
                    409,
                    "BucketAlreadyOwnedByYou",
                    "conflict",
                    "Your previous request to create the named bucket succeeded and you already own it.",
                )
            self._buckets[bucket] = {}
            self.projects[bucket], self.created[bucket] = project, time.time()

    def buckets(self) -> list[str]:
        """Their names."""
        with self.lock:
            return sorted(self._buckets)

    def remove_bucket(self, bucket: str) -> None:
        """Only an empty one."""
        with self.lock:
            if self.bucket(bucket):
                raise StoreError(409, "BucketNotEmpty", "conflict", "The bucket you tried to delete is not empty.")
            del self._buckets[bucket]

    def bucket(self, bucket: str) -> dict[str, Blob]:
        """The objects in it."""
        try:
            return self._buckets[bucket]
        except KeyError:
            raise StoreError(404, "NoSuchBucket", "notFound", "The specified bucket does not exist.") from None

    def get(
        self, bucket: str, name: str, conditions: Preconditions | None = None, generation: int | None = None
    ) -> Blob:
        """An object, or one generation of it."""
        with self.lock:
            found = self.bucket(bucket).get(name)
            if found is not None and generation is not None and found.generation != generation:
                found = None
            if found is None:
                raise not_found(f"{bucket}/{name}")
            if conditions is not None:
                conditions.check(found)
            return found

    def put(self, blob: Blob, conditions: Preconditions) -> Blob:
        """Writes an object; its generation is given here."""
        with self.lock:
            objects = self.bucket(blob.bucket)
            conditions.check(objects.get(blob.name))
            if not blob.name or len(blob.name.encode()) > 1024 or "\n" in blob.name or "\r" in blob.name:
                raise StoreError(400, "InvalidObjectName", "invalid", "Invalid object name.")
            blob.generation = next(self._generations)
            blob.created = blob.updated = time.time()
            objects[blob.name] = blob
            return blob

    def delete(self, bucket: str, name: str, conditions: Preconditions, generation: int | None = None) -> None:
        """Removes an object that must be there."""
        with self.lock:
            found = self.get(bucket, name, None, generation)
            conditions.check(found)
            del self.bucket(bucket)[found.name]

    def listing(
        self, bucket: str, prefix: str, delimiter: str, *, after: str = "", start: str = "", end: str = ""
    ) -> Iterator[Blob | str]:
        """Objects and common prefixes in the order of their names: after `after`, from `start`, before `end`."""
        with self.lock:
            found = sorted(self.bucket(bucket).items(), key=lambda item: item[0].encode())
        last = None
        for name, blob in found:
            if not name.startswith(prefix) or (start and name < start) or (end and name >= end):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                common = prefix + rest[: rest.index(delimiter) + len(delimiter)]
                if common != last and not (after and common <= after):
                    last = common
                    yield common
            elif not (after and name <= after):
                yield blob
