"""Standard snapshots of the fake: https://cloud.google.com/compute/docs/reference/rest/v1/snapshots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .disks import GIB
from .gcp_world import (
    LABEL_KEY,
    LABEL_VALUE,
    NAME,
    Bytes,
    OperationFailed,
    Refusal,
    Resource,
    kind_of,
    name_of,
    parse_link,
    timestamp,
)
from .httpd import Request
from .life import Phase, take

if TYPE_CHECKING:
    from .gcp_compute import Compute

# What a client may set; all else in the body is refused, because a misspelt field must not pass unseen.
SETTABLE = {
    "name",
    "description",
    "sourceDisk",
    "sourceInstantSnapshot",
    "labels",
    "storageLocations",
    "snapshotType",
    "snapshotEncryptionKey",
    "guestFlush",
    "chainName",
    "locationHint",
}


def check_body(body: Any, settable: set[str]) -> Resource:
    """Names, labels and fields that a new resource may have."""
    if not isinstance(body, dict):
        raise Refusal(400, "parseError", "Parse Error")
    if unknown := sorted(set(body) - settable):
        raise Refusal(400, "invalid", f"Unknown or output only field: {', '.join(unknown)}")
    name = body.get("name", "")
    if not NAME.fullmatch(name):
        raise Refusal(
            400,
            "invalid",
            f"Invalid value for field 'resource.name': '{name}'. Must be a match of regex '{NAME.pattern}'",
        )
    labels = body.get("labels", {})
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            raise Refusal(400, "invalid", f"Invalid value for field 'resource.labels': '{key}: {value}'.")
    if len(labels) > 64:
        raise Refusal(400, "invalid", "Invalid value for field 'resource.labels': too many labels")
    if len(body.get("description", "")) > 2048:
        raise Refusal(400, "invalid", "Invalid value for field 'resource.description': too long")
    return body


def insert(api: Compute, request: Request, collection: str, _name: str) -> Resource:
    """`snapshots.insert`: of a zonal or regional disk, or of an instant snapshot."""
    body = check_body(request.json(), SETTABLE)
    world, settings = api.world, api.cloud.settings
    link = f"{collection}/{body['name']}"
    source_key = "sourceInstantSnapshot" if "sourceInstantSnapshot" in body else "sourceDisk"
    source_link = parse_link(str(body.get(source_key, ""))) or ""
    if not source_link or kind_of(source_link) not in ("disks", "instantSnapshots"):
        raise Refusal(400, "invalid", f"Invalid value for field 'resource.{source_key}': '{body.get(source_key)}'.")
    source = world.get(source_link)
    if link in world.things:
        raise Refusal(409, "alreadyExists", f"The resource '{link}' already exists")
    disk_link = source_link if source_key == "sourceDisk" else parse_link(source.shown["sourceDisk"]) or ""
    check_rate(api, disk_link)
    project = collection.split("/")[1]
    limit = settings.more.get("snapshot_quota")
    count = len(world.of_kind("snapshots", f"projects/{project}/"))
    if limit is not None and count >= limit:
        # The call is accepted; only the operation says that it was in vain.
        failure = OperationFailed(
            "QUOTA_EXCEEDED", 403, "FORBIDDEN", f"Quota 'SNAPSHOTS' exceeded.  Limit: {limit}.0 globally."
        )

        def refuse() -> bool:
            raise failure

        return world.operate(link, "insert", refuse, world.new_id())
    if failures := settings.more.get("not_ready", 0):
        # Something else is being done with the disk. Said by the operation, which is done at once.
        settings.more["not_ready"] = failures - 1
        world.operate(link, "insert", lambda: _fails(), world.new_id())
        return world.look(list(world.operations)[-1])
    thing = _begin(api, link, body, source, source_key, source_link)
    operation = world.operate(link, "insert", lambda: _made(thing), thing.shown["id"])
    if settings.more.get("target") == "source":
        # Some calls lead to what was worked on, not to what was made.
        operation["targetLink"] = world.base + disk_link
    return operation


def _fails() -> bool:
    raise OperationFailed("RESOURCE_NOT_READY", 400, "BAD REQUEST", "The resource is not ready.")


def _begin(api: Compute, link: str, body: Resource, source: Bytes, source_key: str, source_link: str) -> Bytes:
    world = api.world
    assert source.disk is not None
    shown: Resource = {
        **body,
        "status": "CREATING",
        "diskSizeGb": str(source.disk.size // GIB),
        "labelFingerprint": "NDJXbVNwQjBycFk=",
        "storageLocations": body.get("storageLocations", ["eu"]),
        "snapshotType": body.get("snapshotType", "STANDARD"),
        "autoCreated": False,
        "storageBytes": "0",
        "storageBytesStatus": "UPDATING",
        source_key: world.base + source_link,
        f"{source_key}Id": source.shown["id"],
    }
    if source_key == "sourceInstantSnapshot":
        shown["sourceDisk"], shown["sourceDiskId"] = source.shown["sourceDisk"], source.shown["sourceDiskId"]
    thing = world.add(link, "snapshot", shown)
    thing.disk = source.disk
    settings = api.cloud.settings
    if source.snapshot is not None and source_key == "sourceInstantSnapshot":
        from .life import copied

        thing.snapshot = copied(api.cloud.store, source.snapshot, settings)
    else:
        (thing.snapshot,) = take(api.cloud.store, [source.disk], settings, late=True)
    return thing


def _made(thing: Bytes) -> bool:
    assert thing.snapshot is not None
    if thing.snapshot.phase is Phase.FAILED:
        raise OperationFailed(
            "INTERNAL_ERROR", 500, "INTERNAL SERVER ERROR", thing.snapshot.reason or "Internal error."
        )
    return thing.snapshot.phase is Phase.READY


def check_rate(api: Compute, disk_link: str) -> None:
    """The limits on how often a disk may be snapshotted, where the test has set them."""
    settings = api.cloud.settings
    made = [
        thing
        for _, thing in api.world.of_kind("snapshots")
        if parse_link(thing.shown.get("sourceDisk", "")) == disk_link
    ]
    recent = [thing for thing in made if time.time() - thing.requested < settings.min_interval_ms / 1000]
    busy = [thing for thing in made if thing.snapshot and thing.snapshot.phase in (Phase.CREATING, Phase.COPYING)]
    if recent or (settings.max_concurrent is not None and len(busy) >= settings.max_concurrent):
        raise Refusal(
            429,
            "operationRateExceeded",
            f"Operation rate exceeded for resource '{disk_link}'. Too frequent operations from the source resource.",
        )


def of_disk(api: Compute, request: Request, collection: str, name: str) -> Resource:
    """`disks.createSnapshot`: the older call, into the project of the disk."""
    body = {**request.json(), "sourceDisk": f"{collection}/{name}"}
    inner = Request("POST", request.path, request.query, request.headers)
    inner.json = lambda: body  # type: ignore[method-assign]
    return insert(api, inner, f"projects/{collection.split('/')[1]}/global/snapshots", "")


def delete(api: Compute, _request: Request, collection: str, name: str) -> Resource:
    """`snapshots.delete`. One that is not cut yet is not ready for it."""
    link = f"{collection}/{name}"
    thing = api.world.get(link)
    assert thing.snapshot is not None
    if thing.snapshot.phase is Phase.CREATING:
        raise Refusal(400, "resourceNotReady", f"The resource '{link}' is not ready")
    if thing.shown.get("status") == "DELETING":
        raise Refusal(400, "resourceNotReady", f"The resource '{link}' is not ready")
    thing.shown["status"] = "DELETING"
    delay, begun = api.cloud.settings.more.get("delete_ms", 0) / 1000, time.time()

    def gone() -> bool:
        if time.time() - begun < delay:
            return False
        if api.world.things.get(link) is thing:
            del api.world.things[link]
            assert thing.snapshot is not None
            thing.snapshot.drop(api.cloud.store)
        return True

    return api.world.operate(link, "delete", gone, thing.shown["id"])


__all__ = ["check_body", "check_rate", "delete", "insert", "name_of", "of_disk", "timestamp"]
