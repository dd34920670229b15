"""The fake of AWS, asked by the official Python client."""

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
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto")

from botocore.config import Config  # type: ignore[import-untyped]  # noqa: E402
from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may attach disks")

ONCE = Config(retries={"total_max_attempts": 1}, read_timeout=5)


class World:
    """A running set with one instance and two disks."""

    def __init__(self, endpoint: str) -> None:
        """Lays it out."""
        self.endpoint = endpoint
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        self.ec2 = boto3.client("ec2", endpoint_url=endpoint, config=ONCE, **keys)
        self.west = boto3.client("ec2", endpoint_url=endpoint, config=ONCE, **{**keys, "region_name": "eu-west-1"})
        self.s3 = boto3.client("s3", endpoint_url=endpoint, config=ONCE, **keys)
        self.sts = boto3.client("sts", endpoint_url=endpoint, config=ONCE, **keys)
        self.instance = self.control("instances", {"name": "pg1"})["id"]
        self.data, self.ts = (self.control("disks", {"name": name, "size_gib": 1})["id"] for name in ("pg-data", "pg-ts"))

    def control(self, what: str, data: Any = None) -> Any:
        """A control request."""
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(f"{self.endpoint}/_control/{what}", body) as answer:
            return json.load(answer)

    def attach(self, disk: str) -> str:
        """Attaches a disk under a free name; its path."""
        paths: list[str] = self.control("attach", {"instance": "pg1", "disk": disk})["paths"]
        return paths[0]

    def states(self, *snapshots: str) -> list[str]:
        """The states of snapshots."""
        found = self.ec2.describe_snapshots(SnapshotIds=list(snapshots))["Snapshots"]
        return [next(each["State"] for each in found if each["SnapshotId"] == wanted) for wanted in snapshots]

    def until(self, snapshot: str, state: str) -> None:
        """Waits for a state."""
        end = time.monotonic() + 10
        while self.states(snapshot) != [state]:
            assert time.monotonic() < end, f"{snapshot} does not get {state}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("clouds") / "set"
    command = [sys.executable, "-m", "clouds", "up", "--clouds", "aws", "--root", str(root), "--json"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout and process.stdin
        yield json.loads(process.stdout.readline())["clouds"]["aws"]["endpoints"]["api"]
        process.stdin.close()
    assert not root.exists()


@pytest.fixture
def world(endpoint: str) -> Iterator[World]:
    made = World(endpoint)
    yield made
    made.control("reset", {})
    made.ec2.terminate_instances(InstanceIds=[made.instance])
    for disk in made.control("world")["disks"]:
        if disk["name"]:
            made.control("destroy", {"disk": disk["id"]})


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=rf"\({code}\)")


def write(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_SYNC)
    os.pwrite(file, data, 4096)
    os.close(file)


def read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    data = os.pread(file, 5, 4096)
    os.close(file)
    return data


def test_bytes_go_from_disk_to_snapshot_to_disk(world: World) -> None:
    path = world.attach("pg-data")
    write(path, b"first")
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "Name", "Value": "s"}, {"Key": "token", "Value": "t1"}]}]
    world.control("settings", {"ready_ms": 500})
    made = world.ec2.create_snapshot(VolumeId=world.data, Description="d", TagSpecifications=tags)
    write(path, b"later")
    assert made["State"] == "pending" and made["VolumeId"] == world.data and made["Progress"] != "100%"
    snapshot = made["SnapshotId"]
    with refused("IncorrectState"):
        world.ec2.create_volume(SnapshotId=snapshot, AvailabilityZone="us-east-1a")
    world.until(snapshot, "completed")
    world.control("destroy", {"disk": "pg-data"})
    assert not os.path.lexists(path)
    with refused("InvalidVolume.NotFound"):
        world.ec2.describe_volumes(VolumeIds=[world.data])
    by_tag = world.ec2.describe_snapshots(Filters=[{"Name": "tag:token", "Values": ["t1"]}])["Snapshots"]
    assert [(each["SnapshotId"], each["Progress"], each["VolumeId"]) for each in by_tag] == [(snapshot, "100%", world.data)]
    assert {tag["Key"]: tag["Value"] for tag in by_tag[0]["Tags"]} == {"Name": "s", "token": "t1"}
    new = world.ec2.create_volume(SnapshotId=snapshot, AvailabilityZone="us-east-1a")
    assert new["Size"] == 1 and new["SnapshotId"] == snapshot
    world.ec2.create_tags(Resources=[new["VolumeId"]], Tags=[{"Key": "Name", "Value": "again"}])
    path = world.attach("again")
    assert read(path) == b"first"
    world.ec2.detach_volume(VolumeId=new["VolumeId"])
    world.ec2.delete_volume(VolumeId=new["VolumeId"])
    world.ec2.delete_snapshot(SnapshotId=snapshot)
    with refused("InvalidSnapshot.NotFound"):
        world.ec2.delete_snapshot(SnapshotId=snapshot)
    with refused("InvalidSnapshot.NotFound"):
        world.states(snapshot)


def test_a_group_leaves_out_what_is_excluded_and_copies_tags(world: World) -> None:
    for disk in ("pg-data", "pg-ts"):
        world.attach(disk)
    root = next(disk["id"] for disk in world.control("world")["disks"] if disk.get("instance") == world.instance and not disk["name"])
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "token", "Value": "g"}]}]
    spec = {"InstanceId": world.instance, "ExcludeBootVolume": True}
    made = world.ec2.create_snapshots(InstanceSpecification=spec, TagSpecifications=tags, CopyTagsFromSource="volume")
    found = {each["VolumeId"]: {tag["Key"]: tag["Value"] for tag in each["Tags"]} for each in made["Snapshots"]}
    assert found == {world.data: {"Name": "pg-data", "token": "g"}, world.ts: {"Name": "pg-ts", "token": "g"}}
    spec["ExcludeDataVolumeIds"] = [world.ts]
    made = world.ec2.create_snapshots(InstanceSpecification=spec)["Snapshots"]
    assert [each["VolumeId"] for each in made] == [world.data] and not made[0].get("Tags")
    made = world.ec2.create_snapshots(InstanceSpecification={"InstanceId": world.instance})["Snapshots"]
    assert {each["VolumeId"] for each in made} == {world.data, world.ts, root}
    with refused("InvalidParameterValue"):
        world.ec2.create_snapshots(InstanceSpecification={"InstanceId": world.instance, "ExcludeDataVolumeIds": [root]})


def test_a_snapshot_fails_after_its_cut(world: World) -> None:
    world.control("settings", {"ready_ms": 300, "fail_after_cut": ["pg-data"]})
    told = world.ec2.create_snapshot(VolumeId=world.data)["SnapshotId"]
    lost = world.ec2.create_snapshot(VolumeId=world.ts)["SnapshotId"]
    world.control("destroy", {"disk": "pg-ts"})
    assert world.states(told, lost) == ["pending", "error"]
    world.until(told, "error")
    (found,) = world.ec2.describe_snapshots(SnapshotIds=[told])["Snapshots"]
    assert found["StateMessage"]
    with refused("IncorrectState"):
        world.ec2.create_volume(SnapshotId=told, AvailabilityZone="us-east-1a")


def test_limits_of_a_volume(world: World) -> None:
    world.control("settings", {"ready_ms": 60000})
    for _ in range(5):
        world.ec2.create_snapshot(VolumeId=world.data)
    with refused("ConcurrentSnapshotLimitExceeded"):
        world.ec2.create_snapshot(VolumeId=world.data)
    world.control("settings", {"min_interval_ms": 60000})
    world.ec2.create_snapshot(VolumeId=world.ts)
    with refused("SnapshotCreationPerVolumeRateExceeded"):
        world.ec2.create_snapshot(VolumeId=world.ts)


def test_the_answer_comes_after_the_cut_and_calls_run_side_by_side(world: World) -> None:
    world.control("settings", {"cut_ms": 400})
    with ThreadPoolExecutor() as pool:
        begin = time.monotonic()
        list(pool.map(lambda disk: world.ec2.create_snapshot(VolumeId=disk), [world.data, world.ts]))
    assert 0.4 <= time.monotonic() - begin < 0.75


def test_lists_are_paged_and_filtered_by_owner(world: World) -> None:
    made = {world.ec2.create_snapshot(VolumeId=world.data)["SnapshotId"] for _ in range(7)}
    pages = list(world.ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], PaginationConfig={"PageSize": 5}))
    found = [each["SnapshotId"] for page in pages for each in page["Snapshots"]]
    assert len(pages) > 1 and len(found) == len(set(found)) and made <= set(found)
    assert world.ec2.describe_snapshots(OwnerIds=["amazon"])["Snapshots"] == []
    with refused("InvalidParameterValue"):
        world.ec2.describe_snapshots(MaxResults=4)
    volumes = world.ec2.describe_volumes(Filters=[{"Name": "tag:Name", "Values": ["pg-data"]}], MaxResults=5)["Volumes"]
    assert [each["VolumeId"] for each in volumes] == [world.data]


def test_create_volume_knows_its_client_token(world: World) -> None:
    ask = {"Size": 1, "AvailabilityZone": "us-east-1a", "ClientToken": f"token-{world.data}"}
    first, second = (world.ec2.create_volume(**ask)["VolumeId"] for _ in range(2))
    assert first == second
    with refused("IdempotentParameterMismatch"):
        world.ec2.create_volume(**{**ask, "Size": 2})
    (status,) = world.ec2.describe_volume_status(VolumeIds=[first])["VolumeStatuses"]
    assert status["VolumeStatus"]["Status"] == "ok"
    world.ec2.delete_volume(VolumeId=first)


def test_a_device_name_belongs_to_one_disk_and_a_disk_to_one_instance(world: World, tmp_path: Path) -> None:
    path = world.attach("pg-data")
    (attached,) = world.ec2.describe_volumes(VolumeIds=[world.data])["Volumes"][0]["Attachments"]
    device = attached["Device"]
    with refused("VolumeInUse"):
        world.ec2.attach_volume(VolumeId=world.data, InstanceId=world.instance, Device="/dev/sdz")
    with refused("InvalidParameterValue"):
        world.ec2.attach_volume(VolumeId=world.ts, InstanceId=world.instance, Device=device)
    with refused("VolumeInUse"):
        world.ec2.delete_volume(VolumeId=world.data)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    subprocess.run(["mount", path, tmp_path], check=True)
    assert f" - ext4 {path} " in Path("/proc/self/mountinfo").read_text()
    world.ec2.detach_volume(VolumeId=world.data)
    (busy,) = world.ec2.describe_volumes(VolumeIds=[world.data])["Volumes"][0]["Attachments"]
    assert busy["State"] == "busy" and os.path.lexists(path)
    subprocess.run(["umount", tmp_path], check=True)
    assert world.ec2.describe_volumes(VolumeIds=[world.data])["Volumes"][0]["State"] == "available"
    assert not os.path.lexists(path)
    with refused("IncorrectState"):
        world.ec2.detach_volume(VolumeId=world.data)


def test_a_nitro_instance_shows_nvme_devices(world: World) -> None:
    world.control("instances", {"name": "nitro", "instance_type": "m5.large"})
    shown = world.control("attach", {"instance": "nitro", "disk": "pg-data", "device": "/dev/sdf"})
    assert shown["device"] == "/dev/sdf"
    node, link = shown["paths"]
    assert node.startswith("/dev/nvme") and link.endswith(world.data.replace("-", ""))
    assert os.path.realpath(link) == node
    write(node, b"nitro")


def test_locks(world: World) -> None:
    ec2 = world.ec2
    day_ms = 4000
    world.control("settings", {"ready_ms": 400, "more": {"day_ms": day_ms}})
    snapshot = ec2.create_snapshot(VolumeId=world.data)["SnapshotId"]
    pending = ec2.lock_snapshot(SnapshotId=snapshot, LockMode="governance", LockDuration=1)
    assert pending["LockState"] == "governance" and "LockExpiresOn" not in pending
    with refused("SnapshotLocked"):
        ec2.delete_snapshot(SnapshotId=snapshot)
    world.until(snapshot, "completed")
    (locked,) = ec2.describe_locked_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert locked["LockExpiresOn"] - locked["LockDurationStartTime"] == timedelta(milliseconds=day_ms)
    assert locked["LockDurationStartTime"] >= locked["LockCreatedOn"]
    ec2.unlock_snapshot(SnapshotId=snapshot)
    with refused("IncorrectState"):
        ec2.unlock_snapshot(SnapshotId=snapshot)
    # 6 hours are a quarter of the day.
    cool = ec2.lock_snapshot(SnapshotId=snapshot, LockMode="compliance", LockDuration=2, CoolOffPeriod=6)
    assert cool["LockState"] == "compliance-cooloff"
    time.sleep(day_ms / 4000 + 0.1)
    with refused("SnapshotLocked"):
        ec2.unlock_snapshot(SnapshotId=snapshot)
    for worse in ({"LockMode": "governance", "LockDuration": 3}, {"LockMode": "compliance", "LockDuration": 1}):
        with refused("SnapshotLocked"):
            ec2.lock_snapshot(SnapshotId=snapshot, **worse)
    until = datetime.now(timezone.utc) + timedelta(milliseconds=2.5 * day_ms)
    longer = ec2.lock_snapshot(SnapshotId=snapshot, LockMode="compliance", ExpirationDate=until)
    assert longer["LockState"] == "compliance" and abs(longer["LockExpiresOn"] - until) < timedelta(seconds=1)
    states = [{"Name": "lock-state", "Values": ["compliance"]}]
    assert snapshot in [each["SnapshotId"] for each in ec2.describe_locked_snapshots(Filters=states)["Snapshots"]]
    # Instead of waiting for all of it.
    world.control("settings", {"more": {"day_ms": 1}})
    other = ec2.create_snapshot(VolumeId=world.ts)["SnapshotId"]
    world.until(other, "completed")
    ec2.lock_snapshot(SnapshotId=other, LockMode="compliance", LockDuration=1)
    time.sleep(0.1)
    assert ec2.describe_locked_snapshots(SnapshotIds=[other])["Snapshots"][0]["LockState"] == "expired"
    ec2.delete_snapshot(SnapshotId=other)


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"LockMode": "governance"}, "MissingParameter"),
        ({"LockMode": "governance", "LockDuration": 1, "CoolOffPeriod": 1}, "InvalidParameterCombination"),
        ({"LockMode": "compliance", "LockDuration": 36501}, "InvalidParameterValue"),
        ({"LockMode": "compliance", "LockDuration": 1, "CoolOffPeriod": 73}, "InvalidParameterValue"),
        ({"LockMode": "compliance", "ExpirationDate": datetime(2020, 1, 1)}, "InvalidParameterValue"),
        ({"LockMode": "compliance", "LockDuration": 1, "ExpirationDate": datetime(2090, 1, 1)}, "InvalidParameterCombination"),
    ],
)
def test_wrong_locks(world: World, ask: dict[str, Any], code: str) -> None:
    snapshot = world.ec2.create_snapshot(VolumeId=world.data)["SnapshotId"]
    with refused(code):
        world.ec2.lock_snapshot(SnapshotId=snapshot, **ask)


def test_a_copy_in_another_region_has_the_bytes(world: World) -> None:
    write(world.attach("pg-data"), b"home!")
    source = world.ec2.create_snapshot(VolumeId=world.data)["SnapshotId"]
    world.control("settings", {"ready_ms": 300})
    copy = world.west.copy_snapshot(SourceSnapshotId=source, SourceRegion="us-east-1")["SnapshotId"]
    (found,) = world.west.describe_snapshots(SnapshotIds=[copy])["Snapshots"]
    assert found["State"] == "pending"
    world.ec2.delete_snapshot(SnapshotId=source)
    time.sleep(0.35)
    volume = world.west.create_volume(SnapshotId=copy, AvailabilityZone="eu-west-1a")["VolumeId"]
    run = {"ImageId": "ami-12c6146b", "MinCount": 1, "MaxCount": 1, "InstanceType": "m5.large"}
    place = {"AvailabilityZone": "eu-west-1a"}
    instance = world.west.run_instances(Placement=place, **run)["Instances"][0]["InstanceId"]
    world.west.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    assert read(f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}") == b"home!"
    world.west.detach_volume(VolumeId=volume)
    world.west.delete_volume(VolumeId=volume)


def test_fast_snapshot_restore(world: World) -> None:
    snapshot = world.ec2.create_snapshot(VolumeId=world.data)["SnapshotId"]
    world.control("settings", {"ready_ms": 400})
    ask = {"AvailabilityZones": ["us-east-1a"], "SourceSnapshotIds": [snapshot]}
    assert world.ec2.enable_fast_snapshot_restores(**ask)["Successful"][0]["State"] == "enabling"
    time.sleep(0.45)
    mine = [{"Name": "snapshot-id", "Values": [snapshot]}]
    assert world.ec2.describe_fast_snapshot_restores(Filters=mine)["FastSnapshotRestores"][0]["State"] == "enabled"
    world.ec2.disable_fast_snapshot_restores(**ask)
    assert world.ec2.describe_fast_snapshot_restores(Filters=mine)["FastSnapshotRestores"] == []


def test_faults_and_the_log_of_calls(world: World) -> None:
    world.control("reset", {})
    world.control("faults", [
        {"action": "CreateSnapshot", "kind": "throttle", "match": {"resource": "pg-data"}},
        {"action": "CreateSnapshot", "kind": "fail", "match": {"resource": "pg-data"}},
        {"action": "CreateSnapshot", "kind": "lost_reply"},
        {"action": "LockSnapshot", "kind": "denied", "times": None},
        {"action": "s3:PutObject", "kind": "throttle"},
        {"action": "sts:GetCallerIdentity", "kind": "denied"},
    ])
    for code in ("RequestLimitExceeded", "InternalError"):
        with refused(code):
            world.ec2.create_snapshot(VolumeId=world.data)
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "token", "Value": world.ts}]}]
    with pytest.raises(Exception, match="Connection was closed|Could not connect|aborted"):
        world.ec2.create_snapshot(VolumeId=world.ts, TagSpecifications=tags)
    found = world.ec2.describe_snapshots(Filters=[{"Name": "tag:token", "Values": [world.ts]}])["Snapshots"]
    assert len(found) == 1
    for dry in (True, False):
        with refused("UnauthorizedOperation"):
            world.ec2.lock_snapshot(SnapshotId=found[0]["SnapshotId"], LockMode="governance", LockDuration=1, DryRun=dry)
    for call in (world.ec2.delete_snapshot, world.ec2.unlock_snapshot):
        with refused("DryRunOperation"):
            call(SnapshotId=found[0]["SnapshotId"], DryRun=True)
    assert world.states(found[0]["SnapshotId"]) == ["completed"]
    with refused("SlowDown"):
        world.s3.put_object(Bucket="backups", Key="k", Body=b"x")
    with refused("AccessDenied"):
        world.sts.get_caller_identity()
    calls = [(call["action"], call["status"], call["code"], call["dry_run"]) for call in world.control("calls")]
    assert calls == [
        ("CreateSnapshot", 503, "RequestLimitExceeded", False),
        ("CreateSnapshot", 500, "InternalError", False),
        ("CreateSnapshot", 0, None, False),
        ("DescribeSnapshots", 200, None, False),
        ("LockSnapshot", 403, "UnauthorizedOperation", True),
        ("LockSnapshot", 403, "UnauthorizedOperation", False),
        ("DeleteSnapshot", 412, "DryRunOperation", True),
        ("UnlockSnapshot", 412, "DryRunOperation", True),
        ("DescribeSnapshots", 200, None, False),
        ("s3:PutObject", 503, "SlowDown", False),
        ("sts:GetCallerIdentity", 403, "AccessDenied", False),
    ]
    assert all("pg-data" in call["resource"] for call in world.control("calls")[:2])
    with pytest.raises(urllib.error.HTTPError):
        world.control("faults", [{"action": "X", "kind": "no such kind"}])


def test_the_object_store_is_as_ever(world: World) -> None:
    body = os.urandom(6 << 20)
    world.s3.put_object(Bucket="backups", Key="a/b c%d", Body=body, Tagging="k=v")
    assert world.s3.get_object(Bucket="backups", Key="a/b c%d", Range="bytes=1-3")["Body"].read() == body[1:4]
    with refused("PreconditionFailed"):
        world.s3.put_object(Bucket="backups", Key="a/b c%d", Body=b"", IfNoneMatch="*")
    assert world.s3.head_object(Bucket="backups", Key="a/b c%d")["ContentLength"] == len(body)
    upload = world.s3.create_multipart_upload(Bucket="backups", Key="m")["UploadId"]
    part = world.s3.upload_part(Bucket="backups", Key="m", UploadId=upload, PartNumber=1, Body=body)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    world.s3.complete_multipart_upload(Bucket="backups", Key="m", UploadId=upload, MultipartUpload=parts)
    listed = world.s3.list_objects_v2(Bucket="backups")["Contents"]
    assert [each["Key"] for each in listed] == ["a/b c%d", "m"]
    world.s3.delete_objects(Bucket="backups", Delete={"Objects": [{"Key": each["Key"]} for each in listed]})
    assert {call["action"] for call in world.control("calls")} >= {
        *("s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject"),
    }
