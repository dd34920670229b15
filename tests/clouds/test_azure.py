"""The fake of Azure, asked by the official Python clients, and held against the published shape of answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

compute_client = pytest.importorskip("azure.mgmt.compute")

from azure.core.exceptions import (  # noqa: E402
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.core.pipeline.policies import SansIOHTTPPolicy  # noqa: E402
from azure.mgmt.compute.models import (  # noqa: E402
    AttachDetachDataDisksRequest,
    CreationData,
    DataDisksToAttach,
    DataDisksToDetach,
    Disk,
    DiskSku,
    Snapshot,
)

from clouds.azure_compute import SUBSCRIPTION  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may attach disks")


class Token(SansIOHTTPPolicy[Any, Any]):
    """The client's own policy refuses to send tokens over HTTP, so this one does."""

    def __init__(self, token: str) -> None:
        """With a token of the fake."""
        self.token = token

    def on_request(self, request: Any) -> None:
        """Adds the token."""
        request.http_request.headers["Authorization"] = f"Bearer {self.token}"


class World:
    """A running set with one machine and two disks, one of them in another group."""

    def __init__(self, described: dict[str, Any]) -> None:
        """Lays it out."""
        self.endpoint, self.env = described["endpoints"]["api"], described["env"]
        self.metadata = described["endpoints"]["metadata"]
        self.client = self.with_token(self.token()["access_token"])
        self.machine = self.control("instances", {"name": "pg1"})["id"]
        self.data = self.control("disks", {"name": "pg-data", "size_gib": 1})["id"]
        self.ts = self.control("disks", {"name": "pg-ts", "size_gib": 1, "group": "rg2", "sku": "PremiumV2_LRS"})["id"]

    def with_token(self, token: str) -> Any:
        """An official client."""
        return compute_client.ComputeManagementClient(
            credential=object(),
            subscription_id=SUBSCRIPTION,
            base_url=self.endpoint,
            authentication_policy=Token(token),
            retry_total=0,
            polling_interval=0.05,
        )

    def token(self) -> Any:
        """A token, as an App Service gives it."""
        url = f"{self.env['IDENTITY_ENDPOINT']}?api-version=2019-08-01&resource=https://management.azure.com"
        request = urllib.request.Request(url, headers={"X-IDENTITY-HEADER": self.env["IDENTITY_HEADER"]})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def control(self, what: str, data: Any = None) -> Any:
        """A control request."""
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(f"{self.endpoint}/_control/{what}", body) as answer:
            return json.load(answer)

    def raw(self, method: str, path: str, body: Any = None) -> tuple[int, Any, Any]:
        """A request without a client: status, headers, body."""
        data = None if body is None else json.dumps(body).encode()
        url = path if path.startswith("http") else self.endpoint + path
        request = urllib.request.Request(url, data, {"Authorization": "Bearer token-0"}, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                text = answer.read()
                return answer.status, answer.headers, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, error.headers, json.loads(error.read())

    def snapshot(self, name: str, disk: str, **more: Any) -> Any:
        """Starts a snapshot as stock Barman does; a poller."""
        body = {"location": "westeurope", "incremental": True, "creation_data": {"create_option": "Copy", "source_resource_id": disk}}
        return self.client.snapshots.begin_create_or_update("rg1", name, {**body, **more})

    def path(self, of: str) -> str:
        """Where a disk shows on this computer."""
        return str(next(each["paths"][0] for each in self.control("world")["disks"] if each["id"] == of))


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("clouds") / "set"
    command = [sys.executable, "-m", "clouds", "up", "--clouds", "azure", "--root", str(root), "--json"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout and process.stdin
        yield json.loads(process.stdout.readline())["clouds"]["azure"]
        process.stdin.close()
    assert not root.exists()


@pytest.fixture(scope="module")
def everything(described: Any) -> World:
    return World(described)


@pytest.fixture
def world(everything: World) -> Iterator[World]:
    yield everything
    everything.control("reset", {})
    everything.control("settings", {"more": {}})
    for disk in (everything.data, everything.ts):
        everything.control("detach", {"disk": disk})
    for each in list(everything.client.snapshots.list_by_resource_group("rg1")):
        everything.client.snapshots.begin_delete("rg1", each.name).result()


def code(error: pytest.ExceptionInfo[Any]) -> Any:
    """The code of a refusal."""
    return error.value.error.code


def test_a_snapshot_holds_the_bytes_of_its_cut_and_a_disk_is_made_of_it(world: World) -> None:
    world.control("attach", {"instance": "pg1", "disk": world.data})
    path = world.path(world.data)
    write(path, b"before")
    done = world.snapshot("s1", world.data, tags={"team": "db"}).result()
    assert (done.provisioning_state, done.completion_percent, done.tags) == ("Succeeded", 100, {"team": "db"})
    assert done.creation_data.source_resource_id == world.data and done.disk_size_gb == 1
    write(path, b"after!")
    body = Disk(
        location="westeurope",
        sku=DiskSku(name="Premium_LRS"),
        creation_data=CreationData(create_option="Copy", source_resource_id=done.id),
    )
    made = world.client.disks.begin_create_or_update("rg1", "restored", body).result()
    assert (made.disk_state, made.disk_size_gb) == ("Unattached", 1)
    wanted = AttachDetachDataDisksRequest(data_disks_to_attach=[DataDisksToAttach(disk_id=made.id)])
    world.client.virtual_machines.begin_attach_detach_data_disks("rg1", "pg1", wanted).result()
    machine = world.client.virtual_machines.get("rg1", "pg1")
    names = {disk.name: disk.lun for disk in machine.storage_profile.data_disks}
    assert set(names) == {"pg-data", "restored"} and len(set(names.values())) == 2
    assert world.client.disks.get("rg1", "restored").managed_by == machine.id
    assert read(world.path(made.id), 6) == b"before"
    with pytest.raises(ResourceExistsError) as busy:
        world.client.disks.begin_delete("rg1", "restored").result()
    assert code(busy) == "OperationNotAllowed"
    away = AttachDetachDataDisksRequest(data_disks_to_detach=[DataDisksToDetach(disk_id=made.id)])
    world.client.virtual_machines.begin_attach_detach_data_disks("rg1", "pg1", away).result()
    world.client.disks.begin_delete("rg1", "restored").result()
    with pytest.raises(ResourceNotFoundError):
        world.client.disks.get("rg1", "restored")


def test_the_cut_comes_late_and_the_copy_later(world: World) -> None:
    world.control("settings", {"cut_ms": 300, "ready_ms": 4000})
    begun = time.monotonic()
    poller = world.snapshot("slow", world.ts)
    assert not poller.done()
    assert world.client.snapshots.get("rg1", "slow").provisioning_state == "Updating"
    poller.result()
    assert time.monotonic() - begun >= 0.3
    copying = world.client.snapshots.get("rg1", "slow")
    assert copying.provisioning_state == "Succeeded" and copying.completion_percent < 100
    body = Disk(location="westeurope", creation_data=CreationData(create_option="Copy", source_resource_id=copying.id))
    with pytest.raises(ResourceExistsError) as early:
        world.client.disks.begin_create_or_update("rg1", "early", body).result()
    assert code(early) == "OperationNotAllowed", "a snapshot of Premium SSD v2 cannot be used before it is complete"
    until(lambda: world.client.snapshots.get("rg1", "slow").completion_percent == 100)


def test_a_failure_while_it_is_made_stands_in_the_operation_alone(world: World) -> None:
    world.control("settings", {"more": {"fail_operation": ["pg-data"]}})
    with pytest.raises(HttpResponseError) as failed:
        world.snapshot("bad", world.data).result()
    assert "InternalExecutionError" in str(failed.value)
    with pytest.raises(ResourceNotFoundError):
        world.client.snapshots.get("rg1", "bad")


def test_a_disk_that_is_lost_takes_its_unfinished_snapshots_with_it(world: World) -> None:
    disk = world.control("disks", {"name": "doomed", "size_gib": 1})["id"]
    world.control("settings", {"ready_ms": 60_000})
    world.snapshot("orphan", disk).result()
    world.control("destroy", {"disk": disk})
    assert world.client.snapshots.get("rg1", "orphan").provisioning_state == "Failed"


def test_a_put_is_create_or_update_and_a_source_cannot_be_changed(world: World) -> None:
    first = world.snapshot("same", world.data, tags={"a": "1"}).result()
    again = world.snapshot("same", world.data, tags={"a": "2"}).result()
    assert (again.id, again.time_created, again.tags) == (first.id, first.time_created, {"a": "2"})
    with pytest.raises(ResourceExistsError) as changed:
        world.snapshot("same", world.ts).result()
    assert code(changed) == "PropertyChangeNotAllowed"


def test_lists_come_in_pages_and_with_loud_groups(world: World) -> None:
    names = [f"page-{i}" for i in range(7)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: world.snapshot(name, world.data).result(), names))
    found = list(world.client.snapshots.list_by_resource_group("rg1"))
    assert sorted(each.name for each in found) == names
    assert all("/resourceGroups/RG1/" in each.id for each in found)
    lists = [each for each in world.control("calls") if each["action"] == "Microsoft.Compute/snapshots/read"]
    assert sum(each["status"] == 200 and each["resource"] == "rg1" for each in lists) >= 3


def test_a_copy_goes_to_another_region_and_takes_its_time(world: World) -> None:
    source = world.snapshot("near", world.data).result()
    world.control("settings", {"ready_ms": 3000})
    body = Snapshot(
        location="northeurope",
        incremental=True,
        creation_data=CreationData(create_option="CopyStart", source_resource_id=source.id),
    )
    copy = world.client.snapshots.begin_create_or_update("rg1", "far", body).result()
    assert (copy.location, copy.completion_percent < 100) == ("northeurope", True)
    world.client.snapshots.begin_delete("rg1", "near").result()
    until(lambda: world.client.snapshots.get("rg1", "far").completion_percent == 100)


def test_bad_requests_are_refused_as_the_service_refuses_them(world: World) -> None:
    here = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.Compute/snapshots"
    good = {"location": "westeurope", "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": world.data}}}
    for path, body, status, expected in [
        (f"{here}/a", good, 400, "MissingApiVersionParameter"),
        (f"{here}/a?api-version=2015-01-01", good, 400, "NoRegisteredProviderFound"),
        (f"{here}/a-?api-version=2024-03-02", good, 400, "InvalidParameter"),
        (f"{here}/{'a' * 81}?api-version=2024-03-02", good, 400, "InvalidParameter"),
        (f"{here}/a?api-version=2024-03-02", {**good, "creation_data": {}}, 400, "InvalidRequestContent"),
        (f"{here}/a?api-version=2024-03-02", {"properties": good["properties"]}, 400, "LocationRequired"),
        (f"{here}/a?api-version=2024-03-02", {"location": "westeurope"}, 400, "InvalidParameter"),
        (f"{here}/a?api-version=2024-03-02", {**good, "location": "eastus"}, 400, "InvalidParameter"),
        (f"{here}/a?api-version=2024-03-02".replace("rg1", "rg9"), good, 404, "ResourceGroupNotFound"),
        (f"{here}/a?api-version=2024-03-02".replace(SUBSCRIPTION, "s9"), good, 404, "SubscriptionNotFound"),
    ]:
        answer, _, error = world.raw("PUT", path, body)
        assert (answer, error["error"]["code"]) == (status, expected), path
        assert error["error"]["message"]
    assert list(world.client.snapshots.list_by_resource_group("rg1")) == []


def test_an_operation_can_be_followed_by_both_of_its_addresses(world: World) -> None:
    world.control("settings", {"cut_ms": 300})
    path = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.Compute/snapshots/op?api-version=2024-03-02"
    body = {"location": "westeurope", "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": world.data}}}
    status, headers, shown = world.raw("PUT", path, body)
    assert (status, shown["properties"]["provisioningState"]) == (202, "Updating")
    follow, result = headers["Azure-AsyncOperation"], headers["Location"]
    assert headers["Retry-After"] and "/DiskOperations/" in follow and "monitor=true" in result
    assert world.raw("GET", result)[0] == 202
    assert world.raw("GET", follow)[2]["status"] == "InProgress"
    until(lambda: world.raw("GET", follow)[2]["status"] == "Succeeded")
    status, _, done = world.raw("GET", result)
    assert (status, done["properties"]["provisioningState"]) == (200, "Succeeded")


def test_who_may_not_is_told_what_he_lacks(world: World) -> None:
    for role, expected in [
        ({"actions": ["Microsoft.Compute/*/read"]}, "AuthorizationFailed"),
        ({"actions": ["*"], "not_actions": ["Microsoft.Compute/disks/beginGetAccess/*"]}, "LinkedAuthorizationFailed"),
    ]:
        world.control("settings", {"more": {"actions": ["*"], "not_actions": [], **role}})
        with pytest.raises(HttpResponseError) as refused:
            world.snapshot("s", world.data).result()
        assert (refused.value.status_code, code(refused)) == (403, expected)
    world.control("settings", {"more": {"actions": ["*"], "not_actions": []}})
    with pytest.raises(ClientAuthenticationError) as expired:
        world.with_token("token-expired-1").snapshots.get("rg1", "x")
    assert code(expired) == "ExpiredAuthenticationToken"


def test_a_lock_forbids_to_delete(world: World) -> None:
    done = world.snapshot("locked", world.data).result()
    world.control("settings", {"more": {"locks": [{"scope": done.id, "level": "CanNotDelete"}]}})
    with pytest.raises(ResourceExistsError) as locked:
        world.client.snapshots.begin_delete("rg1", "locked").result()
    assert code(locked) == "ScopeLocked"
    world.control("settings", {"more": {"locks": []}})


def test_limits_of_a_slow_disk_are_kept(world: World) -> None:
    world.control("settings", {"ready_ms": 60_000})
    for i in range(3):
        world.snapshot(f"p{i}", world.ts).result()
    with pytest.raises(ResourceExistsError) as limit:
        world.snapshot("p3", world.ts).result()
    assert code(limit) == "OperationNotAllowed"
    world.snapshot("other", world.data).result()


def test_faults_are_worded_as_the_service_does(world: World) -> None:
    write_action = "Microsoft.Compute/snapshots/write"
    faults = [{"action": write_action, "kind": kind, "seconds": 7} for kind in ("throttle", "fail", "denied")]
    world.control("faults", faults)
    for status, expected in ((429, "SubscriptionRequestsThrottled"), (500, "InternalServerError"), (403, "AuthorizationFailed")):
        with pytest.raises(HttpResponseError) as fault:
            world.snapshot("f", world.data).result()
        assert (fault.value.status_code, code(fault)) == (status, expected)
        answer: Any = fault.value.response
        assert status != 429 or answer.headers["Retry-After"] == "7"
    world.control("faults", [{"action": write_action, "kind": "lost_reply", "match": {"resource": "pg-data"}}])
    with pytest.raises(Exception, match="Connection|connection|RemoteDisconnected"):
        world.snapshot("lost", world.data).result()
    assert world.client.snapshots.get("rg1", "lost").provisioning_state == "Succeeded"


def test_the_machine_is_told_who_it_is(world: World) -> None:
    url = f"{world.metadata}/metadata/instance/compute?api-version=2021-02-01"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Metadata": "true"})) as answer:
        told = json.load(answer)
    assert (told["name"], told["resourceGroupName"], told["subscriptionId"]) == ("pg1", "rg1", SUBSCRIPTION)


def test_blobs_are_there(world: World) -> None:
    if "AZURE_STORAGE_CONNECTION_STRING" not in world.env:
        pytest.skip("Azurite is not installed")
    blob = pytest.importorskip("azure.storage.blob")
    service = blob.BlobServiceClient.from_connection_string(world.env["AZURE_STORAGE_CONNECTION_STRING"])
    container = service.get_container_client("backups")
    container.upload_blob("catalog/x", b"y")
    with pytest.raises(ResourceExistsError):
        container.upload_blob("catalog/x", b"z")
    assert container.download_blob("catalog/x").readall() == b"y"


def write(path: str, data: bytes) -> None:
    """Writes to the beginning of a block device, to the medium."""
    with open(path, "r+b", buffering=0) as device:
        device.write(data.ljust(4096, b"\0"))
        os.fsync(device.fileno())


def read(path: str, length: int) -> bytes:
    """Reads the beginning of a block device."""
    with open(path, "rb") as device:
        return device.read(length)


def until(true: Any) -> None:
    """Waits until something is so."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
