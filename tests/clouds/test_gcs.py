"""The fake of Cloud Storage: the JSON API by the official Python client, the XML API by requests as `object_store` makes them;
both show the same objects. JSON is checked against the published schema."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import pytest

storage: Any = pytest.importorskip("google.cloud.storage")
pytest.importorskip("googleapiclient")

from google.api_core import exceptions  # noqa: E402
from google.auth import credentials as google_credentials  # noqa: E402
from google.auth.transport.requests import AuthorizedSession  # noqa: E402

from clouds import schema  # noqa: E402
from clouds.cloud import Cloud  # noqa: E402
from clouds.faults import CallLog, FaultPlan, Settings  # noqa: E402
from clouds.gcs import Gcs  # noqa: E402
from clouds.httpd import Server  # noqa: E402


class Bare(Cloud):
    """A cloud without disks: the store needs none, and so its tests run without root."""

    name = "gcp"

    def __init__(self) -> None:
        """Only what a server needs."""
        self.faults, self.calls, self.settings = FaultPlan(), CallLog(), Settings()
        self.objects = Gcs(self)
        self.objects.make_bucket("backups", "proj-1")
        self.server = Server(self.objects)
        self.objects.url = self.server.url

    def endpoints(self) -> dict[str, str]:
        """The one."""
        return {"store": self.server.url}

    def env(self) -> dict[str, str]:
        """As Google's libraries are told."""
        return {"STORAGE_EMULATOR_HOST": self.server.url}

    def close(self) -> None:
        """Stops."""
        self.server.close()

    def create_instance(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        """There are none."""
        raise NotImplementedError

    create_disk = attach = detach = destroy = create_instance  # type: ignore[assignment]

    def world(self) -> dict[str, Any]:
        """Nothing."""
        return {"instances": [], "disks": [], "snapshots": []}


@pytest.fixture
def cloud() -> Iterator[Bare]:
    made = Bare()
    yield made
    made.close()


@pytest.fixture
def bucket(cloud: Bare, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of the official client; what it sends and gets as JSON is as published."""
    wrong: list[str] = []
    plain: Any = AuthorizedSession.request

    def request(self: Any, method: str, url: str, data: Any = None, **more: Any) -> Any:
        answer = plain(self, method, url, data=data, **more)
        path = urlsplit(url).path
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        if answer.ok and path.startswith(("/storage/v1/", "/upload/storage/v1/")):
            published = schema.method("storage.v1", method.upper(), path.removeprefix("/upload"))
            if is_json and "response" in published and "resumable" not in url:
                wrong.extend(schema.problems("storage.v1", published["response"]["$ref"], answer.json()))
        return answer

    monkeypatch.setattr(AuthorizedSession, "request", request)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.server.url)
    anonymous = google_credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
    client = storage.Client(project="proj-1", credentials=anonymous)
    yield client.bucket("backups")
    assert wrong == []


def test_objects_are_written_read_listed_and_deleted(bucket: Any) -> None:
    assert bucket.exists() and not bucket.client.bucket("nobody").exists()
    blob = bucket.blob("a/b c/ü?#%.txt")
    blob.metadata = {"purpose": "test"}
    blob.upload_from_string(b"hello\r\n--x\r\nworld", content_type="text/plain")
    assert blob.size == 17 and blob.generation and blob.metadata == {"purpose": "test"}
    again = bucket.get_blob(blob.name)
    assert again.download_as_bytes() == b"hello\r\n--x\r\nworld"
    assert again.download_as_bytes(start=1, end=3) == b"ell"
    assert again.crc32c == blob.crc32c and again.content_type == "text/plain"
    assert bucket.get_blob("none") is None and not bucket.blob("none").exists()
    blob.delete()
    with pytest.raises(exceptions.NotFound):
        blob.delete()


def test_preconditions_hold(bucket: Any) -> None:
    blob = bucket.blob("once")
    blob.upload_from_string("one", if_generation_match=0)
    first = blob.generation
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("once").upload_from_string("two", if_generation_match=0)
    blob.upload_from_string("two", if_generation_match=first)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("once").upload_from_string("three", if_generation_match=first)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.delete(if_generation_match=first)
    assert blob.generation > first and bucket.blob("once").download_as_bytes() == b"two"
    blob.delete(if_generation_match=blob.generation)


def test_lists_have_pages_prefixes_and_offsets(bucket: Any) -> None:
    for name in ("a/1", "a/2", "a/x/3", "b/4", "c"):
        bucket.blob(name).upload_from_string(name)

    def names(**more: Any) -> tuple[list[str], list[str]]:
        found = bucket.client.list_blobs(bucket, **more)
        listed = [blob.name for blob in found]
        return listed, sorted(found.prefixes)

    assert names(page_size=2) == (["a/1", "a/2", "a/x/3", "b/4", "c"], [])
    assert names(prefix="a/", delimiter="/") == (["a/1", "a/2"], ["a/x/"])
    assert names(delimiter="/", page_size=1) == (["c"], ["a/", "b/"])
    assert names(start_offset="a/2", end_offset="b/5")[0] == ["a/2", "a/x/3", "b/4"]


def test_big_uploads_copies_and_batches(bucket: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    blob = bucket.blob("big", chunk_size=256 * 1024)
    (tmp_path / "big").write_bytes(data)
    blob.upload_from_filename(str(tmp_path / "big"))
    assert blob.download_as_bytes() == data
    copy = bucket.copy_blob(blob, bucket, "copy")
    assert copy.download_as_bytes() == data
    whole = bucket.blob("whole")
    whole.compose([blob, copy])
    assert whole.size == 2 * len(data)
    with bucket.client.batch():
        for name in ("big", "copy", "whole"):
            bucket.blob(name).delete()
    assert list(bucket.client.list_blobs(bucket)) == []
    with pytest.raises(exceptions.NotFound):
        with bucket.client.batch():
            bucket.blob("big").delete()


def xml(cloud: Bare, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A request of the XML API."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{cloud.server.url}/{path}", body or None, named, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, {key.lower(): value for key, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {key.lower(): value for key, value in error.headers.items()}, error.read()


def test_the_xml_api_has_what_object_store_relies_on(cloud: Bare, bucket: Any) -> None:
    key = "backups/" + quote("pg/main/base/x y", safe="")
    status, headers, _ = xml(cloud, "PUT", key, b"one", x_goog_if_generation_match="0", content_type="text/plain")
    assert status == 200 and headers["etag"] and headers["x-goog-generation"]
    assert xml(cloud, "PUT", key, b"two", x_goog_if_generation_match="0")[0] == 412
    status, second, _ = xml(cloud, "PUT", key, b"two", x_goog_if_generation_match=headers["x-goog-generation"])
    assert (
        status == 200
        and xml(cloud, "PUT", key, b"x", x_goog_if_generation_match=headers["x-goog-generation"])[0] == 412
    )
    status, told, body = xml(cloud, "GET", key)
    assert (status, body, told["etag"]) == (200, b"two", second["etag"]) and told["last-modified"].endswith("GMT")
    status, told, body = xml(cloud, "HEAD", key)
    assert (status, body, told["content-length"]) == (200, b"", "3")
    status, told, body = xml(cloud, "GET", key, range="bytes=1-")
    assert (status, body, told["content-range"]) == (206, b"wo", "bytes 1-2/3")
    assert bucket.blob("pg/main/base/x y").download_as_bytes() == b"two", "the JSON API shows the same object"
    assert xml(cloud, "PUT", "backups/copy", x_goog_copy_source="/" + key)[0] == 200
    assert xml(cloud, "PUT", "backups/copy", x_goog_copy_source="/" + key, x_goog_if_generation_match="0")[0] == 412
    status, _, body = xml(cloud, "GET", "backups?list-type=2&delimiter=%2F&max-keys=1")
    listed = ElementTree.fromstring(body)
    found = {re.sub(r".*\}", "", each.tag): (each.text or "").strip() for each in listed.iter()}
    assert (status, found["Key"], found["IsTruncated"]) == (200, "copy", "true")
    token = quote(found["NextContinuationToken"])
    _, _, body = xml(cloud, "GET", f"backups?list-type=2&delimiter=%2F&max-keys=1&continuation-token={token}")
    assert b"<Prefix>pg/</Prefix>" in body and b"<IsTruncated>false" in body
    assert xml(cloud, "DELETE", key)[0] == 204 and xml(cloud, "DELETE", key)[0] == 404
    assert xml(cloud, "GET", key)[0] == 404


def test_the_xml_api_takes_parts(cloud: Bare) -> None:
    status, _, body = xml(cloud, "POST", "backups/parts?uploads", b"")
    upload = re.search(rb"<UploadId>(.*)</UploadId>", body)
    assert status == 200 and upload
    where = f"backups/parts?uploadId={upload[1].decode()}"
    data = [b"a" * (5 << 20), b"b"]
    tags = [xml(cloud, "PUT", f"{where}&partNumber={n}", part)[1]["etag"] for n, part in enumerate(data, 1)]
    rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>" for n, tag in enumerate(tags, 1))
    assert xml(cloud, "POST", where, f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode())[0] == 200
    assert xml(cloud, "GET", "backups/parts")[2] == b"".join(data)
    assert xml(cloud, "DELETE", where)[0] == 404


def test_faults_hit_objects(cloud: Bare, bucket: Any) -> None:
    cloud.faults.set([{"action": "storage.objects.create", "kind": "lost_reply", "match": {"resource": "lost"}}])
    with pytest.raises(Exception, match="(?i)closed|remote|reset"):
        xml(cloud, "PUT", "backups/lost", b"x")
    assert bucket.blob("lost").download_as_bytes() == b"x"
    cloud.faults.set([{"action": "storage.objects.get", "kind": "denied", "times": 1}])
    assert xml(cloud, "GET", "backups/lost")[0] == 403
    assert json.dumps(cloud.calls.list()).count("storage.objects.create") == 1
