"""The fake of Google Cloud, asked by the official Python client; every request and answer checked against the published
schema."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

compute_v1: Any = pytest.importorskip("google.cloud.compute_v1")
pytest.importorskip("googleapiclient")

from google.api_core import exceptions  # noqa: E402
from google.api_core.client_options import ClientOptions  # noqa: E402
from google.auth import credentials as google_credentials  # noqa: E402
from google.auth.transport.requests import AuthorizedSession  # noqa: E402

from clouds import schema  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may attach disks")

PROJECT, ZONE, REGION = "proj-1", "europe-west1-b", "europe-west1"
HERE: dict[str, Any] = {"project": PROJECT, "zone": ZONE}


class World:
    """A running set with one instance and disks."""

    def __init__(self, told: dict[str, Any]) -> None:
        """Lays it out."""
        self.endpoint: str = told["endpoints"]["api"]
        self.metadata: str = told["endpoints"]["metadata"]
        self.clients: dict[str, Any] = {}
        self.control("instances", {"name": "pg1"})
        group = {"consistency_group": "pg"}
        for disk, more in (("pg-data", group), ("data", group), ("pg-regional", {"region": REGION, "type": "pd-ssd"})):
            self.control("disks", {"name": disk, "size_gib": 1, **more})

    def control(self, what: str, data: Any = None) -> Any:
        """A control request."""
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(f"{self.endpoint}/_control/{what}", body) as answer:
            return json.load(answer)

    def client(self, name: str) -> Any:
        """A client of the official library."""
        if name not in self.clients:
            options = ClientOptions(api_endpoint=self.endpoint)
            credentials = google_credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
            self.clients[name] = getattr(compute_v1, name)(client_options=options, credentials=credentials)
        return self.clients[name]

    def insert(self, name: str, disk: str = "zones/europe-west1-b/disks/pg-data", **more: Any) -> Any:
        """Asks for a snapshot."""
        resource = compute_v1.Snapshot(name=name, source_disk=f"projects/{PROJECT}/{disk}", **more)
        return self.client("SnapshotsClient").insert_unary(project=PROJECT, snapshot_resource=resource)

    def status(self, name: str) -> str:
        """Of a snapshot."""
        return str(self.client("SnapshotsClient").get(project=PROJECT, snapshot=name).status)

    def wait(self, name: str, status: str) -> None:
        """Until a snapshot has this status."""
        end = time.monotonic() + 10
        while self.status(name) != status:
            assert time.monotonic() < end, self.status(name)
            time.sleep(0.02)

    def done(self, operation: Any) -> Any:
        """The operation when it has ended."""
        end = time.monotonic() + 10
        while operation.status != compute_v1.Operation.Status.DONE:
            assert time.monotonic() < end
            time.sleep(0.02)
            place = operation.self_link.split("/")[-4:-2]
            where = {"project": PROJECT, "operation": operation.name}
            match place:
                case ["zones", zone]:
                    operation = self.client("ZoneOperationsClient").get(zone=zone, **where)
                case ["regions", region]:
                    operation = self.client("RegionOperationsClient").get(region=region, **where)
                case _:
                    operation = self.client("GlobalOperationsClient").get(**where)
        return operation


CHECKED: list[str] = []


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every call that the official client makes is one that exists, and says and gets what is published."""
    wrong: list[str] = []
    plain: Any = AuthorizedSession.request

    def request(self: Any, method: str, url: str, data: Any = None, **more: Any) -> Any:
        answer = plain(self, method, url, data=data, **more)
        published = schema.method("compute.v1", method.upper(), urlsplit(url).path)
        CHECKED.append(published["id"])
        # What the fake refuses may well be wrong.
        if answer.ok and data and "request" in published:
            wrong.extend(schema.problems("compute.v1", published["request"]["$ref"], json.loads(data)))
        if answer.ok:
            wrong.extend(schema.problems("compute.v1", published["response"]["$ref"], answer.json()))
        return answer

    monkeypatch.setattr(AuthorizedSession, "request", request)
    yield
    assert wrong == []


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A running set."""
    root = tmp_path_factory.mktemp("clouds") / "set"
    command = [sys.executable, "-m", "clouds", "up", "--clouds", "gcp", "--root", str(root), "--json"]
    where = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=where)
    assert process.stdin and process.stdout
    yield json.loads(process.stdout.readline())["clouds"]["gcp"]
    process.stdin.close()
    assert process.wait(30) == 0
    assert not root.exists()


@pytest.fixture(scope="module")
def laid_out(told: dict[str, Any]) -> World:
    """Its world."""
    return World(told)


@pytest.fixture
def world(laid_out: World) -> Iterator[World]:
    """Without faults, and without snapshots afterwards."""
    laid_out.control("reset", {})
    yield laid_out
    laid_out.control("reset", {})
    for each in laid_out.control("world")["snapshots"]:
        if each["kind"] == "snapshots" and each["state"] != "DELETING":
            delete(laid_out, each["name"])


def delete(world: World, name: str) -> None:
    """Deletes a snapshot."""
    world.done(world.client("SnapshotsClient").delete_unary(project=PROJECT, snapshot=name))


def test_a_snapshot_goes_its_way(world: World) -> None:
    world.client("SnapshotsClient")
    world.control("settings", {"cut_ms": 1000, "ready_ms": 1500})
    operation = world.insert("one", labels={"team": "db"}, description="text")
    assert operation.status == compute_v1.Operation.Status.RUNNING
    assert world.status("one") == "CREATING"
    world.wait("one", "UPLOADING")
    world.wait("one", "READY")
    ended = world.done(operation)
    assert not ended.error.errors and ended.progress == 100
    shown = world.client("SnapshotsClient").get(project=PROJECT, snapshot="one")
    assert (shown.labels["team"], shown.description, shown.disk_size_gb) == ("db", "text", 1)
    assert shown.source_disk.endswith("/zones/europe-west1-b/disks/pg-data")


def test_zonal_and_regional_disks_and_another_project(world: World) -> None:
    world.done(world.insert("regional", "regions/europe-west1/disks/pg-regional"))
    disk = world.client("RegionDisksClient").get(project=PROJECT, region=REGION, disk="pg-regional")
    assert disk.type_.endswith("/diskTypes/pd-ssd") and len(disk.replica_zones) == 2
    resource = compute_v1.Snapshot(name="abroad", source_disk=f"projects/{PROJECT}/zones/{ZONE}/disks/pg-data")
    world.client("SnapshotsClient").insert_unary(project="proj-2", snapshot_resource=resource)
    assert [each.name for each in world.client("SnapshotsClient").list(project="proj-2")] == ["abroad"]
    world.client("SnapshotsClient").delete_unary(project="proj-2", snapshot="abroad")
    assert list(world.client("SnapshotsClient").list(project="proj-2")) == []


def test_a_repeated_request_id_makes_nothing_new(world: World) -> None:
    resource = compute_v1.Snapshot(name="twice", source_disk=f"projects/{PROJECT}/zones/{ZONE}/disks/pg-data")
    request = {"project": PROJECT, "snapshot_resource": resource, "request_id": str(uuid.uuid4())}
    client = world.client("SnapshotsClient")
    first, second = client.insert_unary(request), client.insert_unary(request)
    assert first.name == second.name
    with pytest.raises(exceptions.Conflict):
        client.insert_unary({**request, "request_id": str(uuid.uuid4())})
    with pytest.raises(exceptions.BadRequest):
        client.insert_unary({**request, "request_id": str(uuid.UUID(int=0))})
    world.done(first)


def test_a_quota_is_told_by_the_operation_alone(world: World) -> None:
    world.control("settings", {"more": {"snapshot_quota": 0}})
    operation = world.insert("too-many")
    assert operation.status == compute_v1.Operation.Status.RUNNING
    ended = world.done(operation)
    assert ended.error.errors[0].code == "QUOTA_EXCEEDED" and ended.http_error_status_code == 403
    with pytest.raises(exceptions.NotFound):
        world.status("too-many")
    quotas = world.client("ProjectsClient").get(project=PROJECT).quotas
    assert [quota.limit for quota in quotas if quota.metric == "SNAPSHOTS"] == [0]


def test_lists_are_filtered_and_paged(world: World) -> None:
    world.control("settings", {"more": {"page_size": 2}})
    for number in range(5):
        world.done(world.insert(f"s-{number}", labels={"n": str(number % 2)}))
    client = world.client("SnapshotsClient")

    def names(filter: str) -> list[str]:
        return [each.name for each in client.list(compute_v1.ListSnapshotsRequest(project=PROJECT, filter=filter))]

    assert names("") == [f"s-{number}" for number in range(5)]
    assert names("labels.n=1") == ["s-1", "s-3"]
    assert names("labels.n eq 0") == ["s-0", "s-2", "s-4"]
    assert names('(labels.n = "1") (name = s-3)') == ["s-3"]
    assert names('sourceDisk eq ".*/zones/europe-west1-b/disks/data"') == []
    assert len(names('sourceDisk eq ".*/zones/europe-west1-b/disks/pg-data"')) == 5
    with pytest.raises(exceptions.BadRequest):
        names("labels.n ~ 1")


def test_what_is_no_name_or_label_is_refused(world: World) -> None:
    for bad in (
        {"name": "Upper"},
        {"name": "a" * 64},
        {"name": "ok", "labels": {"a.b": ""}},
        {"name": "ok", "labels": {"a": "B"}},
    ):
        with pytest.raises(exceptions.BadRequest):
            world.insert(**bad)
    with pytest.raises(exceptions.NotFound):
        world.insert("ok", "zones/europe-west1-b/disks/none")


def test_a_disk_is_made_attached_detached_and_deleted(world: World) -> None:
    paths = world.control("attach", {"instance": "pg1", "disk": "pg-data", "device": None})["paths"]
    device = os.open(paths[0], os.O_WRONLY | os.O_SYNC)
    os.pwrite(device, b"before", 4096)
    world.done(world.insert("bytes"))
    os.pwrite(device, b"after!", 4096)
    os.close(device)
    world.control("detach", {"disk": "pg-data"})
    name = f"again-{os.getpid()}"
    disk = compute_v1.Disk(name=name, source_snapshot=f"projects/{PROJECT}/global/snapshots/bytes")
    world.done(world.client("DisksClient").insert_unary(disk_resource=disk, **HERE))
    source = f"projects/{PROJECT}/zones/{ZONE}/disks/{name}"
    attached = compute_v1.AttachedDisk(source=source, device_name=name)
    instances = world.client("InstancesClient")
    world.done(instances.attach_disk_unary(instance="pg1", attached_disk_resource=attached, **HERE))
    shown = instances.get(instance="pg1", **HERE)
    assert [each.device_name for each in shown.disks] == ["persistent-disk-0", name]
    with open(f"/dev/disk/by-id/google-{name}", "rb") as restored:
        restored.seek(4096)
        assert restored.read(6) == b"before"
    with pytest.raises(exceptions.BadRequest):
        world.client("DisksClient").delete_unary(disk=name, **HERE)
    world.done(instances.detach_disk_unary(instance="pg1", device_name=name, **HERE))
    world.done(world.client("DisksClient").delete_unary(disk=name, **HERE))
    assert not os.path.lexists(f"/dev/disk/by-id/google-{name}")
    listed = dict(world.client("DisksClient").aggregated_list(project=PROJECT))
    assert [each.name for each in listed[f"zones/{ZONE}"].disks] == ["data", "pg-data", "pg1"]
    assert [each.name for each in listed[f"regions/{REGION}"].disks] == ["pg-regional"]


def test_a_group_is_cut_and_becomes_snapshots(world: World) -> None:
    policy = f"projects/{PROJECT}/regions/{REGION}/resourcePolicies/pg"
    shown = world.client("ResourcePoliciesClient").get(project=PROJECT, region=REGION, resource_policy="pg")
    assert "disk_consistency_group_policy" in shown
    group = compute_v1.InstantSnapshotGroup(name="group", source_consistency_group=policy, description="text")
    groups = world.client("InstantSnapshotGroupsClient")
    world.done(groups.insert_unary(instant_snapshot_group_resource=group, **HERE))
    assert groups.get(instant_snapshot_group="group", **HERE).status == "READY"
    members = list(world.client("InstantSnapshotsClient").list(**HERE))
    assert sorted(each.source_disk.rsplit("/", 1)[-1] for each in members) == ["data", "pg-data"]
    assert {each.status for each in members} == {"READY"}
    instant = f"projects/{PROJECT}/zones/{ZONE}/instantSnapshots/{members[0].name}"
    resource = compute_v1.Snapshot(name="promoted", source_instant_snapshot=instant)
    world.done(world.client("SnapshotsClient").insert_unary(project=PROJECT, snapshot_resource=resource))
    world.done(groups.delete_unary(instant_snapshot_group="group", **HERE))
    assert list(world.client("InstantSnapshotsClient").list(**HERE)) == []
    assert world.status("promoted") == "READY"


def test_a_lost_disk_takes_the_unfinished_with_it(world: World) -> None:
    world.control("disks", {"name": "doomed", "size_gib": 1})
    world.control("settings", {"ready_ms": 60_000})
    operation = world.insert("doomed-1", "zones/europe-west1-b/disks/doomed")
    world.wait("doomed-1", "UPLOADING")
    world.control("destroy", {"disk": "doomed"})
    assert world.status("doomed-1") == "FAILED"
    assert world.done(operation).error.errors[0].code == "INTERNAL_ERROR"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("throttle", exceptions.Forbidden), ("denied", exceptions.Forbidden), ("fail", exceptions.ServiceUnavailable)],
)
def test_a_fault_has_no_effect(world: World, kind: str, expected: type[Exception]) -> None:
    world.control("faults", [{"action": "compute.snapshots.create", "kind": kind, "match": {"resource": "pg-data"}}])
    with pytest.raises(expected) as raised:
        world.insert("faulty")
    if kind == "denied":
        assert "compute.snapshots.create" in str(raised.value)
    assert world.control("world")["snapshots"] == []
    world.done(world.insert("faulty"))
    call, *_ = world.control("calls")
    assert (call["action"], call["fault"], call["resource"]) == ("compute.snapshots.create", kind, "faulty pg-data")


def test_a_lost_reply_has_its_effect(world: World) -> None:
    world.control("faults", [{"action": "compute.snapshots.create", "kind": "lost_reply"}])
    with pytest.raises(Exception, match="(?i)connection|remote"):
        world.insert("lost")
    world.wait("lost", "READY")


def test_permissions_are_asked_for_and_missed(world: World) -> None:
    world.control("settings", {"more": {"denied_permissions": ["compute.snapshots.delete"]}})
    world.done(world.insert("kept"))
    with pytest.raises(exceptions.Forbidden):
        world.client("SnapshotsClient").delete_unary(project=PROJECT, snapshot="kept")
    asked = compute_v1.TestPermissionsRequest(permissions=["compute.disks.createSnapshot", "compute.snapshots.delete"])
    granted = world.client("DisksClient").test_iam_permissions(
        resource="pg-data", test_permissions_request_resource=asked, **HERE
    )
    assert list(granted.permissions) == ["compute.disks.createSnapshot"]


def test_a_wrong_place_is_told(world: World) -> None:
    client = world.client("InstancesClient")
    with pytest.raises(exceptions.NotFound):
        client.get(project="nobody", zone=ZONE, instance="pg1")
    with pytest.raises(exceptions.BadRequest):
        client.get(project=PROJECT, zone="mars-north1-a", instance="pg1")
    with pytest.raises(exceptions.NotFound):
        client.get(project=PROJECT, zone=ZONE, instance="pg2")


def test_the_metadata_server_says_where_it_is_and_gives_tokens(world: World) -> None:
    def get(path: str) -> str:
        request = urllib.request.Request(
            f"{world.metadata}/computeMetadata/v1/{path}", headers={"Metadata-Flavor": "Google"}
        )
        with urllib.request.urlopen(request) as answer:
            text: str = answer.read().decode()
            return text

    assert get("instance/name") == "pg1"
    assert get("instance/zone") == f"projects/1/zones/{ZONE}"
    assert get("project/project-id") == PROJECT
    assert json.loads(get("instance/service-accounts/default/token"))["token_type"] == "Bearer"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{world.metadata}/computeMetadata/v1/instance/name")
    world.control("settings", {"more": {"access_token": "secret"}})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{world.endpoint}/compute/v1/projects/{PROJECT}")


def test_what_was_asked_was_published(world: World) -> None:
    """That the check itself looks: it has seen these methods, and finds fault with a wrong value."""
    seen = {"compute.snapshots.insert", "compute.instances.attachDisk", "compute.instantSnapshotGroups.insert"}
    assert seen <= set(CHECKED), "run all tests of this file"
    assert schema.problems("compute.v1", "Snapshot", {"status": "DONE", "nme": "x", "id": 5})
