"""The metadata server of the fake: which machine this is, and access tokens for its service account.

https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys. Clients find it by `GCE_METADATA_HOST`.
"""

from __future__ import annotations

import json

from .cloud import Cloud
from .gcp_world import PROJECTS, World, scope_of
from .httpd import Api, Request, Response, Subject

EMAIL = "tests@proj-1.iam.gserviceaccount.com"
ROOT = "/computeMetadata/v1/"
HEADERS = {"Metadata-Flavor": "Google", "Content-Type": "application/text"}


class Metadata(Api):
    """The server."""

    def __init__(self, cloud: Cloud, world: World) -> None:
        """Of this world. It says to be the instance `here` of the settings, or the first one."""
        self.cloud = cloud
        self.world = world

    def identify(self, request: Request) -> Subject:
        """No permission is needed."""
        return Subject("metadata", request.path.removeprefix(ROOT))

    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        """It knows few errors."""
        return Response({"throttle": 429, "denied": 403}.get(kind, 503), b"", HEADERS)

    def handle(self, request: Request) -> Response:
        """One value."""
        # A client looks for the server by its root, and then asks with the header.
        if request.path in ("", "/"):
            return Response(200, b"computeMetadata/\n", HEADERS)
        if request.headers.get("metadata-flavor") != "Google":
            return Response(403, b'Missing required header "Metadata-Flavor": "Google"', HEADERS)
        value = self._value(request.path.removeprefix(ROOT), request.query)
        if value is None:
            return Response(404, b"", HEADERS)
        kind = "application/json" if value.startswith("{") else HEADERS["Content-Type"]
        return Response(200, value.encode(), {**HEADERS, "Content-Type": kind})

    def _value(self, key: str, query: dict[str, str]) -> str | None:
        account, _, what = key.removeprefix("instance/service-accounts/").partition("/")
        if key.startswith("instance/service-accounts/") and account in ("default", EMAIL):
            return self._account(what, query)
        match key:
            case "project/project-id":
                return PROJECTS[0]
            case "project/numeric-project-id":
                return "1"
            case "universe/universe-domain":
                return "googleapis.com"
        with self.world.lock:
            instances = dict(self.world.of_kind("instances"))
        here = self.cloud.settings.more.get("here")
        found = [link for link in instances if here in (None, link.rsplit("/", 1)[-1])]
        if not found:
            return None
        first = min(found, key=lambda link: int(instances[link].shown["id"]))
        match key:
            case "instance/name":
                return first.rsplit("/", 1)[-1]
            case "instance/zone":
                return f"projects/1/{scope_of(first)}"
            case "instance/id":
                return str(instances[first].shown["id"])
        return None

    def _account(self, what: str, query: dict[str, str]) -> str | None:
        match what:
            case "token":
                token = self.cloud.settings.more.get("access_token", "ya29.test")
                return json.dumps({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})
            case "email":
                return EMAIL
            case "scopes":
                return "https://www.googleapis.com/auth/cloud-platform"
            case "" if query.get("recursive") == "true":
                scopes = ["https://www.googleapis.com/auth/cloud-platform"]
                return json.dumps({"aliases": ["default"], "email": EMAIL, "scopes": scopes})
        return None
