"""The Compute Engine API of the fake: the calls that snapshot tools make.

https://cloud.google.com/compute/docs/reference/rest/v1. A call that changes something answers with an operation, and what
goes wrong after it was accepted (a quota) is told by the operation only. A repeated `requestId` answers with the operation
of the first call.

Actions are named by the permission that a call needs first (`compute.snapshots.create`); `RULES` is the whole list.
"""

from __future__ import annotations

import base64
import re
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from . import gcp_disks, gcp_instant, gcp_snapshots
from .cloud import Cloud
from .gcp_filter import BadFilter, matches
from .gcp_world import PROJECTS, REGION, ZONES, Bytes, Refusal, Resource, World, parse_link, refreshed
from .httpd import Api, Request, Response, Subject

PREFIX = "/compute/v1/"

# Collection -> the name of the resource in permissions, its kind, and the kind of a list.
COLLECTIONS = {
    "instances": ("instances", "instance", "instanceList"),
    "disks": ("disks", "disk", "diskList"),
    "snapshots": ("snapshots", "snapshot", "snapshotList"),
    "instantSnapshots": ("instantSnapshots", "instantSnapshot", "instantSnapshotList"),
    "instantSnapshotGroups": ("instantSnapshotGroups", "instantSnapshotGroup", "instantSnapshotGroupList"),
    "resourcePolicies": ("resourcePolicies", "resourcePolicy", "resourcePolicyList"),
}

# POST to a resource -> permission.
VERBS = {
    ("instances", "attachDisk"): "compute.instances.attachDisk",
    ("instances", "detachDisk"): "compute.instances.detachDisk",
    ("disks", "createSnapshot"): "compute.disks.createSnapshot",
    ("disks", "testIamPermissions"): "compute.disks.testIamPermissions",
    ("snapshots", "testIamPermissions"): "compute.snapshots.testIamPermissions",
}

PAGE = 500


class Compute(Api):
    """The API."""

    def __init__(self, cloud: Cloud, world: World) -> None:
        """Of this world."""
        self.cloud = cloud
        self.world = world

    # What a call is about

    def identify(self, request: Request) -> Subject:
        """By method and path."""
        parts = [unquote(part) for part in request.path.removeprefix(PREFIX).split("/")]
        match parts:
            case ["projects", project]:
                return Subject("compute.projects.get", project)
            case ["projects", _, "aggregated", kind]:
                return Subject(f"compute.{kind}.list", "aggregated")
            case ["projects", _, "global", "operations", name, *_]:
                return Subject("compute.globalOperations.get", name)
            case ["projects", _, ("zones" | "regions") as place, _, "operations", name, *_]:
                return Subject(f"compute.{place.removesuffix('s')}Operations.get", name)
            case ["projects", _, "global", kind, *rest] | ["projects", _, "zones" | "regions", _, kind, *rest]:
                return self._subject(request, kind, rest)
        return Subject("unknown", request.path)

    def _subject(self, request: Request, kind: str, rest: list[str]) -> Subject:
        permission = f"compute.{COLLECTIONS[kind][0]}" if kind in COLLECTIONS else "unknown"
        match request.method, rest:
            case "GET", []:
                return Subject(f"{permission}.list", request.query.get("filter", ""))
            case "POST", []:
                return Subject(f"{permission}.create", _words(request))
            case "POST", [name, verb]:
                return Subject(VERBS.get((kind, verb), "unknown"), f"{name} {_words(request)}".strip())
            case "GET", [name]:
                return Subject(f"{permission}.get", name)
            case "DELETE", [name]:
                return Subject(f"{permission}.delete", name)
        return Subject("unknown", request.path)

    # Refusals

    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        """As Compute Engine words it."""
        match kind:
            case "throttle":
                headers = {"Retry-After": str(int(seconds))} if seconds else {}
                return error(Refusal(403, "rateLimitExceeded", "Rate Limit Exceeded"), headers)
            case "denied":
                return error(denied(subject.action, subject.resource))
        return error(Refusal(503, "backendError", "Backend Error"))

    # Answers

    def handle(self, request: Request) -> Response:
        """Answers a call, or refuses it in Google's words."""
        try:
            with self.world.lock:
                self.world.settle()
                self._authorise(request)
                return self._answer(request)
        except Refusal as refusal:
            return error(refusal)
        except BadFilter as bad:
            return error(Refusal(400, "invalid", f"Invalid value for field 'filter': {bad}"))
        except ValueError:
            return error(Refusal(400, "parseError", "Parse Error"))

    def _authorise(self, request: Request) -> None:
        more = self.cloud.settings.more
        subject = self.identify(request)
        if more.get("token") == "expired":
            message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or "
            raise Refusal(401, "authError", message + "other valid authentication credential.")
        expected = more.get("access_token")
        if expected and request.headers.get("authorization") != f"Bearer {expected}":
            raise Refusal(401, "authError", "Invalid Credentials")
        if subject.action in more.get("denied_permissions", []):
            raise denied(subject.action, subject.resource)

    def _answer(self, request: Request) -> Response:
        if not request.path.startswith(PREFIX):
            raise Refusal(404, "notFound", "Not Found")
        parts = [unquote(part) for part in request.path.removeprefix(PREFIX).split("/")]
        if len(parts) < 2 or parts[0] != "projects" or parts[1] not in PROJECTS:
            project = parts[1] if len(parts) > 1 else ""
            raise Refusal(404, "notFound", f"The resource 'projects/{project}' was not found")
        project = parts[1]
        match request.method, parts[2:]:
            case "GET", []:
                return Response.of(self._project(project))
            case "GET", ["aggregated", kind]:
                return Response.of(self._aggregated(request, project, kind))
            case method, ["global", kind, *rest]:
                return self._resource(request, method, project, "global", kind, rest)
            case method, ["zones", zone, kind, *rest]:
                if zone not in ZONES:
                    raise Refusal(400, "invalid", f"Invalid value for field 'zone': '{zone}'. Unknown zone.")
                return self._resource(request, method, project, f"zones/{zone}", kind, rest)
            case method, ["regions", region, kind, *rest]:
                if region != REGION:
                    raise Refusal(400, "invalid", f"Invalid value for field 'region': '{region}'. Unknown region.")
                return self._resource(request, method, project, f"regions/{region}", kind, rest)
        raise Refusal(404, "notFound", "Not Found")

    def _resource(
        self, request: Request, method: str, project: str, scope: str, kind: str, rest: list[str]
    ) -> Response:
        collection = f"projects/{project}/{scope}/{kind}"
        match method, rest:
            case "GET" | "POST", [name, *wait] if kind == "operations" and wait in ([], ["wait"]):
                return Response.of(self.world.look(f"{collection}/{name}"))
            case "GET", []:
                return Response.of(self._list(request, collection, kind))
            case "GET", [name]:
                return Response.of(self.shown(f"{collection}/{name}"))
            case "POST", [name, "testIamPermissions"]:
                self.world.get(f"{collection}/{name}")
                return Response.of(self._granted(request.json()))
        handler = HANDLERS.get((method, kind, rest[1] if len(rest) > 1 else "" if not rest else "*"))
        if handler is None:
            raise Refusal(404, "notFound", "Not Found")
        return self._once(request, project, lambda: handler(self, request, collection, rest[0] if rest else ""))

    def _once(self, request: Request, project: str, act: Callable[[], Resource]) -> Response:
        """Does it, unless a call with that `requestId` did."""
        wanted = request.query.get("requestId")
        if wanted is not None:
            try:
                valid = uuid.UUID(wanted).int != 0
            except ValueError:
                valid = False
            if not valid:
                raise Refusal(400, "invalid", f"Invalid value for field 'requestId': '{wanted}'. It must be a UUID.")
            if (known := self.world.requests.get((project, wanted))) is not None:
                return Response.of(self.world.look(known))
        operation = act()
        if wanted is not None:
            self.world.requests[(project, wanted)] = parse_link(operation["selfLink"]) or ""
        return Response.of(operation)

    def shown(self, link: str) -> Resource:
        """A resource as it is now."""
        return refreshed(link, self.world.get(link))

    def _project(self, project: str) -> Resource:
        snapshots = len(self.world.of_kind("snapshots", f"projects/{project}/"))
        limit = self.cloud.settings.more.get("snapshot_quota", 5000)
        return {
            "kind": "compute#project",
            "id": str(PROJECTS.index(project) + 1),
            "name": project,
            "selfLink": f"{self.world.base}projects/{project}",
            "quotas": [{"metric": "SNAPSHOTS", "limit": float(limit), "usage": float(snapshots)}],
        }

    def _granted(self, body: Any) -> Resource:
        without = self.cloud.settings.more.get("denied_permissions", [])
        granted = [permission for permission in body.get("permissions", []) if permission not in without]
        # An empty list is left out, as Google does.
        return {"permissions": granted} if granted else {}

    def _passing(self, request: Request, prefix: str, kind: str) -> list[tuple[str, Resource]]:
        lag = self.cloud.settings.lag_ms / 1000 if "napshot" in kind else 0
        things = [(link, thing) for link, thing in self.world.of_kind(kind, prefix) if time.time() >= thing.requested + lag]
        found = [(link, refreshed(link, thing)) for link, thing in things]
        return [(link, shown) for link, shown in found if matches(request.query.get("filter"), shown)]

    def _page(self, request: Request, found: list[Any]) -> tuple[list[Any], str | None]:
        size = min(int(request.query.get("maxResults", PAGE)), self.cloud.settings.more.get("page_size", PAGE))
        token = request.query.get("pageToken")
        start = int(base64.b64decode(token)) if token else 0
        more = start + size < len(found)
        return found[start : start + size], base64.b64encode(str(start + size).encode()).decode() if more else None

    def _list(self, request: Request, collection: str, kind: str) -> Resource:
        if kind not in COLLECTIONS:
            raise Refusal(404, "notFound", "Not Found")
        found = [shown for _, shown in self._passing(request, collection + "/", kind)]
        items, token = self._page(request, found)
        answer: Resource = {
            "kind": f"compute#{COLLECTIONS[kind][2]}",
            "id": collection,
            "selfLink": self.world.base + collection,
        }
        if items:
            answer["items"] = items
        if token:
            answer["nextPageToken"] = token
        return answer

    def _aggregated(self, request: Request, project: str, kind: str) -> Resource:
        found, token = self._page(request, self._passing(request, f"projects/{project}/", kind))
        scopes: dict[str, Resource] = {}
        for link, shown in found:
            scopes.setdefault("/".join(link.split("/")[2:4]), {kind: []})[kind].append(shown)
        answer = {
            "kind": f"compute#{kind.removesuffix('s')}AggregatedList",
            "id": f"projects/{project}/aggregated/{kind}",
        }
        return {**answer, "items": scopes, **({"nextPageToken": token} if token else {})}


def error(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    """The body of an error."""
    detail = {"message": refusal.message, "domain": "global", "reason": refusal.reason}
    body = {"error": {"code": refusal.status, "message": refusal.message, "errors": [detail]}}
    return Response.of(body, refusal.status, headers, refusal.reason)


def denied(permission: str, resource: str) -> Refusal:
    """A permission is missing."""
    return Refusal(403, "forbidden", f"Required '{permission}' permission for '{resource}'")


def _words(request: Request) -> str:
    """Names in the body: the new resource's and its source's."""
    try:
        body = request.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    keys = ("name", "sourceDisk", "sourceInstantSnapshot", "sourceSnapshot", "source", "sourceConsistencyGroup")
    words = [str(body[key]) for key in keys if body.get(key)]
    return " ".join([re.sub(r".*/", "", word) for word in words] + [request.query.get("deviceName", "")]).strip()


Handler = Callable[[Compute, Request, str, str], Resource]

HANDLERS: dict[tuple[str, str, str], Handler] = {
    ("POST", "snapshots", ""): gcp_snapshots.insert,
    ("POST", "disks", "createSnapshot"): gcp_snapshots.of_disk,
    ("DELETE", "snapshots", "*"): gcp_snapshots.delete,
    ("POST", "disks", ""): gcp_disks.insert,
    ("DELETE", "disks", "*"): gcp_disks.delete,
    ("POST", "instances", "attachDisk"): gcp_disks.attach,
    ("POST", "instances", "detachDisk"): gcp_disks.detach,
    ("POST", "instantSnapshotGroups", ""): gcp_instant.insert,
    ("DELETE", "instantSnapshotGroups", "*"): gcp_instant.delete_group,
    ("DELETE", "instantSnapshots", "*"): gcp_instant.delete,
}

__all__ = ["Bytes", "Compute"]
