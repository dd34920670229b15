"""Instant snapshots of the fake, made by group: https://cloud.google.com/compute/docs/reference/rest/v1/instantSnapshotGroups.

What the published documents leave open is decided like this: the group and its members exist at once, as CREATING; a member
is named after its disk and the id of the group; deleting a group deletes its members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .disks import GIB
from .gcp_snapshots import check_body
from .gcp_world import Bytes, OperationFailed, Refusal, Resource, name_of, parse_link, region_of, scope_of
from .httpd import Request
from .life import Phase, take

if TYPE_CHECKING:
    from .gcp_compute import Compute

SETTABLE = {"name", "description", "sourceConsistencyGroup"}


def insert(api: Compute, request: Request, collection: str, _name: str) -> Resource:
    """`instantSnapshotGroups.insert`: one cut of all disks of a consistency group in this place."""
    body = check_body(request.json(), SETTABLE)
    world, scope, project = api.world, scope_of(f"{collection}/x"), collection.split("/")[1]
    link = f"{collection}/{body['name']}"
    wanted = body.get("sourceConsistencyGroup") or request.query.get("sourceConsistencyGroup", "")
    policy_link = parse_link(wanted) or ""
    if not policy_link:
        raise Refusal(400, "required", "Required field 'sourceConsistencyGroup' not specified")
    policy = world.get(policy_link)
    if "diskConsistencyGroupPolicy" not in policy.shown or scope_of(policy_link) != f"regions/{region_of(scope)}":
        raise Refusal(400, "invalid", f"Invalid value for field 'resource.sourceConsistencyGroup': '{wanted}'.")
    if link in world.things:
        raise Refusal(409, "alreadyExists", f"The resource '{link}' already exists")
    sources = [
        (disk_link, thing)
        for disk_link, thing in world.of_kind("disks", f"projects/{project}/{scope}/")
        if policy_link in map(parse_link, thing.shown.get("resourcePolicies", []))
    ]
    if not sources:
        raise Refusal(400, "invalid", "The consistency group has no disks here.")
    shown = {
        "description": body.get("description", ""),
        "sourceConsistencyGroup": world.base + policy_link,
        "status": "CREATING",
    }
    group = world.add(link, "instantSnapshotGroup", shown)
    disks = [thing.disk for _, thing in sources if thing.disk is not None]
    snapshots = take(api.cloud.store, disks, api.cloud.settings, late=True)
    members = []
    for (disk_link, thing), snapshot in zip(sources, snapshots, strict=True):
        assert thing.disk is not None
        name = f"{name_of(disk_link)[:40]}-{group.shown['id'][-12:]}"
        member = world.add(
            f"projects/{project}/{scope}/instantSnapshots/{name}",
            "instantSnapshot",
            {
                "status": "CREATING",
                "sourceDisk": world.base + disk_link,
                "sourceDiskId": thing.shown["id"],
                "sourceInstantSnapshotGroup": world.base + link,
                "sourceInstantSnapshotGroupId": group.shown["id"],
                "diskSizeGb": str(thing.disk.size // GIB),
                "labelFingerprint": "NDJXbVNwQjBycFk=",
            },
        )
        member.disk, member.snapshot = thing.disk, snapshot
        members.append(member)
    return world.operate(link, "insert", lambda: _made(group, members), group.shown["id"])


def _made(group: Bytes, members: list[Bytes]) -> bool:
    phases = [member.snapshot.phase for member in members if member.snapshot is not None]
    if Phase.FAILED in phases:
        group.shown["status"] = "FAILED"
        raise OperationFailed("INTERNAL_ERROR", 500, "INTERNAL SERVER ERROR", "an instant snapshot failed")
    if Phase.CREATING in phases:
        return False
    group.shown["status"] = "READY"
    return True


def delete_group(api: Compute, _request: Request, collection: str, name: str) -> Resource:
    """`instantSnapshotGroups.delete`."""
    link = f"{collection}/{name}"
    group = api.world.get(link)
    for member_link, member in api.world.of_kind("instantSnapshots"):
        if parse_link(member.shown.get("sourceInstantSnapshotGroup", "")) == link:
            _remove(api, member_link, member)
    del api.world.things[link]
    return api.world.operate(link, "delete", lambda: True, group.shown["id"])


def delete(api: Compute, _request: Request, collection: str, name: str) -> Resource:
    """`instantSnapshots.delete`."""
    link = f"{collection}/{name}"
    member = api.world.get(link)
    _remove(api, link, member)
    return api.world.operate(link, "delete", lambda: True, member.shown["id"])


def _remove(api: Compute, link: str, member: Bytes) -> None:
    if member.snapshot is not None:
        member.snapshot.drop(api.cloud.store)
    api.world.things.pop(link, None)
