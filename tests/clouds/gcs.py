"""Cloud Storage on one server: the JSON API (`gcs_json`) for Google's libraries and stock Barman, the XML API (`gcs_xml`) for
the `object_store` crate. Both show the same objects (`gcs_objects`).

Actions are named by permissions: `storage.objects.create`, `.get`, `.list`, `.delete`, `.update`, `storage.buckets.get`.
"""

from __future__ import annotations

from urllib.parse import unquote

from . import gcs_json, gcs_xml
from .cloud import Cloud
from .gcs_objects import Objects, StoreError
from .httpd import Api, Request, Response, Subject

JSON = {"storage": 2, "upload": 3, "download": 3}
"""First part of a path of the JSON API, and how many parts come before the resource."""

ACTIONS = {"GET": "get", "HEAD": "get", "PUT": "create", "POST": "create", "PATCH": "update", "DELETE": "delete"}


class Gcs(Api):
    """The server's API."""

    def __init__(self, cloud: Cloud) -> None:
        """Without buckets."""
        self.cloud = cloud
        self.objects = Objects()
        self._json = gcs_json.Json(self.objects)
        self._xml = gcs_xml.Xml(self.objects)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._json.url

    @url.setter
    def url(self, url: str) -> None:
        self._json.url = url

    def make_bucket(self, bucket: str, project: str) -> None:
        """An empty bucket."""
        self.objects.make_bucket(bucket, project)

    def identify(self, request: Request) -> Subject:
        """By method and path."""
        parts = _parts(request)
        if parts[0] == "batch":
            return Subject("storage.batch", "")
        if parts[0] not in JSON:
            bucket, name = parts[0], "/".join(parts[1:])
            action = "list" if not name and request.method == "GET" else ACTIONS.get(request.method, "unknown")
            return Subject(f"storage.objects.{action}", f"{bucket}/{name}")
        rest = parts[JSON[parts[0]] :]
        if "upload_id" in request.query or parts[0] == "upload":
            return Subject("storage.objects.create", "/".join([*rest[1::2], request.query.get("name", "")]))
        match rest:
            case ["b"] | ["b", _]:
                return Subject(f"storage.buckets.{ACTIONS.get(request.method, 'unknown')}", "/".join(rest[1:]))
            case ["b", bucket, "o"]:
                return Subject("storage.objects.list", f"{bucket}/{request.query.get('prefix', '')}")
            case ["b", bucket, "o", name, *_]:
                return Subject(f"storage.objects.{ACTIONS.get(request.method, 'unknown')}", f"{bucket}/{name}")
        return Subject("unknown", request.path)

    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        """Worded for both APIs: clients look at the status."""
        match kind:
            case "throttle":
                failure = StoreError(429, "SlowDown", "rateLimitExceeded", "The rate of requests is too high.")
            case "denied":
                failure = StoreError(403, "AccessDenied", "forbidden", f"tests does not have {subject.action} access.")
            case _:
                failure = StoreError(503, "ServiceUnavailable", "backendError", "Backend Error")
        response = gcs_xml.error(failure)
        if kind == "throttle" and seconds:
            response.headers["Retry-After"] = str(int(seconds))
        return response

    def handle(self, request: Request) -> Response:
        """Answers a call by the API that it is of."""
        parts = _parts(request)
        try:
            if parts[0] == "batch":
                return self._json.batch(request, self.handle)
            if parts[0] not in JSON:
                return self._xml.handle(request, parts[0], "/".join(parts[1:]))
            rest = parts[JSON[parts[0]] :]
            if parts[0] == "upload" and request.method == "PUT":
                return self._json.resume(request)
            if parts[0] == "upload":
                return self._json.upload(request, rest[1])
            if parts[0] == "download":
                request.query.setdefault("alt", "media")
            return self._json.handle(request, rest)
        except StoreError as failure:
            return _error(parts, failure)
        except (ValueError, KeyError, IndexError) as problem:
            return _error(parts, StoreError(400, "InvalidArgument", "invalid", f"Invalid argument: {problem}"))


def _error(parts: list[str], failure: StoreError) -> Response:
    return gcs_json.error(failure) if parts[0] in JSON else gcs_xml.error(failure)


def _parts(request: Request) -> list[str]:
    """The path, cut before it is decoded: the name of an object may have slashes in it."""
    parts = [unquote(part) for part in request.path.lstrip("/").split("/")]
    return parts or [""]
