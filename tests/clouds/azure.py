"""Azure: a fake of the Resource Manager, and Azurite for blobs.

One subscription with the resource groups `rg1` and `rg2`. Actions are named as in a role (`Microsoft.Compute/snapshots/write`).
Paths do not depend on case; lists come in pages, with groups in capitals, as the service likes to write them. A second
server, always HTTP, gives tokens (`IDENTITY_ENDPOINT`) and says which machine this is (the metadata service).

`cut_ms` is the time from the PUT of a snapshot until it is provisioned, `ready_ms` until `completionPercent` is 100.
`more` of the settings:

* `actions`, `not_actions`: what the caller's role permits (`["*"]`); every call is held against it.
* `locks`: `[{"scope": ID, "level": "CanNotDelete"}]`.
* `token`: `expired` makes every token an old one.
* `fail_operation`: names of disks whose snapshots fail while they are made and vanish; only the operation says why.
* `snapshot_quota`: how many snapshots there may be; null for any number.
* `per_five_minutes`: how many snapshots of one disk; null for any number. `page`: the length of a page.

More of an instance: `group`, `size`, `zone`. More of a disk: `group`, `sku`, `location`, `more` (properties).
"""

from __future__ import annotations

import fnmatch
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from .azure_blob import Azurite
from .azure_compute import GROUPS, LOCATION, SUBSCRIPTION, Compute, Machine, ManagedDisk, Refused, now, scope, source_of
from .cloud import Cloud, Place, Unknown
from .httpd import Api, Request, Response, Routes, Server, Subject, as_host
from .life import Phase

# Of each resource type: the versions that our program, the official clients and stock Barman ask for.
VERSIONS = {
    "disks": {"2024-03-02", "2025-01-02"},
    "snapshots": {"2024-03-02", "2025-01-02"},
    "virtualMachines": {"2024-07-01", "2024-11-01", "2025-04-01"},
}
PAGE = 3
HEADER = "the-secret-of-the-identity"


def start(place: Place) -> AzureCloud:
    """Starts it, with an empty world. Without Azurite it has no object store."""
    return AzureCloud(place)


class AzureCloud(Cloud):
    """The servers, and the world behind them."""

    name = "azure"

    def __init__(self, place: Place) -> None:
        """Starts the servers."""
        super().__init__(place)
        self.compute = Compute(place.store, self.settings)
        arm = Arm(self)
        self._api = Server(arm)
        self._tls = as_host("management.azure.com", arm, place.root.parent) if place.tls else None
        self._metadata = Server(Metadata(self))
        self._blobs = Azurite.start(place.root / "azurite")

    def endpoints(self) -> dict[str, str]:
        """`api` is the Resource Manager, `metadata` what a machine sees of itself."""
        blobs = {"store": self._blobs.url, "catalog": f"{self._blobs.url}/backups/catalog"} if self._blobs else {}
        tls = {"tls": self._tls.url} if self._tls else {}
        return {"api": self._api.url, "metadata": self._metadata.url, **blobs, **tls}

    def env(self) -> dict[str, str]:
        """Tokens come from the fake; blobs are found by a connection string."""
        blobs = {"AZURE_STORAGE_CONNECTION_STRING": self._blobs.connection_string} if self._blobs else {}
        return {
            "IDENTITY_ENDPOINT": f"{self._metadata.url}/msi/token",
            "IDENTITY_HEADER": HEADER,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self._metadata.url,
            **blobs,
        }

    def close(self) -> None:
        """Stops the servers."""
        for server in (self._api, self._tls, self._metadata, self._blobs):
            if server:
                server.close()

    # What the tests lay out

    def create_instance(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        """A machine with an OS disk."""
        group, zones = more.pop("group", GROUPS[0]), [more.pop("zone")] if "zone" in more else []
        system = ManagedDisk("disks", group, f"{name}_OsDisk_1", size_gib=30)
        machine = Machine("virtualMachines", group, name, zones=zones, os_disk=system, **more)
        system.owner = machine
        self.compute.add(system)
        self.compute.add(machine)
        return {"id": machine.id, "name": name}

    def create_disk(self, name: str, size_gib: int, more: dict[str, Any]) -> dict[str, Any]:
        """A disk."""
        return {"id": self.compute.new_disk(name, size_gib, **more).id, "name": name}

    def _find(self, kind: str, name: str) -> Any:
        found = [each for each in self.compute.all(kind) if name.lower() in (each.name.lower(), each.id.lower())]
        if not found:
            raise Unknown(f"no {kind} {name}")
        return found[0]

    def attach(self, instance: str, disk: str, device: str | None) -> dict[str, Any]:
        """`device` is a LUN."""
        found = self._find("disks", disk)
        try:
            self.compute.attach(self._find("virtualMachines", instance), found, None if device is None else int(device))
        except Refused as error:
            raise ValueError(str(error)) from None
        return {"device": str(found.lun), "paths": found.bytes.paths}

    def detach(self, disk: str) -> dict[str, Any]:
        """Detaches a disk."""
        try:
            self.compute.detach(self._find("disks", disk))
        except Refused as error:
            raise ValueError(str(error)) from None
        return {}

    def destroy(self, disk: str) -> dict[str, Any]:
        """A disk is lost."""
        found = self._find("disks", disk)
        self.compute.store.lose(found.bytes)
        self.compute.detach(found, force=True)
        self.compute.forget(found)
        return {}

    def world(self) -> dict[str, Any]:
        """Everything."""
        disks = []
        for disk in self.compute.all("disks"):
            attached = {"instance": disk.owner.name, "device": str(disk.lun)} if disk.owner else {}
            paths = {"paths": disk.bytes.paths} if disk.bytes and disk.owner else {}
            state = "Attached" if disk.owner else "Unattached"
            disks.append({"id": disk.id, "name": disk.name, "state": state, "tags": disk.tags, **attached, **paths})
        return {
            "instances": [{"id": each.id, "name": each.name, "state": "running"} for each in self.compute.all("virtualMachines")],
            "disks": disks,
            "snapshots": [
                {"id": each.id, "name": each.name, "state": each.made.phase.value, "tags": each.tags, "location": each.location,
                 "instant_access_minutes": each.properties["creationData"].get("instantAccessDurationMinutes")}
                for each in self.compute.all("snapshots")
            ],
        }


class Route:
    """The action of a path, and who answers."""

    def __init__(self, action: str, handler: Callable[..., Response]) -> None:
        """As a role names the action."""
        self.action, self.handler = action, handler

    def __call__(self, request: Request, **parts: str) -> Response:
        """Answers."""
        return self.handler(request, **parts)


class Arm(Api):
    """The Resource Manager."""

    def __init__(self, cloud: AzureCloud) -> None:
        """Of this world."""
        self.cloud: AzureCloud = cloud
        self.compute = cloud.compute
        self._operations: dict[str, Operation] = {}
        self._routes = Routes()
        add = self._route
        group = "/subscriptions/{subscription}/resourceGroups/{group}"
        compute = group + "/providers/Microsoft.Compute"
        for kind in VERSIONS:
            add("GET", f"{compute}/{kind}/{{name}}", f"{kind}/read", self._get, kind)
            add("GET", f"{compute}/{kind}", f"{kind}/read", self._list, kind)
        for kind in ("disks", "snapshots"):
            add("PUT", f"{compute}/{kind}/{{name}}", f"{kind}/write", self._put, kind)
            add("DELETE", f"{compute}/{kind}/{{name}}", f"{kind}/delete", self._delete, kind)
        action = "virtualMachines/attachDetachDataDisks"
        add("POST", f"{compute}/virtualMachines/{{name}}/attachDetachDataDisks", f"{action}/action", self._change_disks)
        location = "/subscriptions/{subscription}/providers/Microsoft.Compute/locations/{location}"
        for kind in ("DiskOperations", "operations"):
            add("GET", f"{location}/{kind}/{{operation}}", f"locations/{kind}/read", self._operation)
        authorization = f"{group}/providers/Microsoft.Authorization"
        for what, answer in (("permissions", self._permissions), ("locks", self._locks)):
            route = Route(f"Microsoft.Authorization/{what}/read", answer)
            self._routes.add("GET", f"{authorization}/{what}", route, re.I)

    def _route(self, method: str, path: str, action: str, handler: Callable[..., Response], kind: str | None = None) -> None:
        def bound(request: Request, **parts: str) -> Response:
            if kind and request.query.get("api-version") not in VERSIONS[kind]:
                raise wrong_version(request, kind, VERSIONS[kind])
            return handler(request, **({"kind": kind} if kind else {}), **parts)

        self._routes.add(method, path, Route(f"Microsoft.Compute/{action}", bound), re.I)

    def _find(self, request: Request) -> tuple[Route, dict[str, str]] | None:
        found = self._routes.find(request)
        if found is None or not isinstance(found[0], Route):
            return None
        return found[0], found[1]

    # In front of every call

    def identify(self, request: Request) -> Subject:
        """The action, and the names in the path."""
        found = self._find(request)
        if found is None:
            return Subject("unknown", request.path)
        route, parts = found
        names = [value for key, value in parts.items() if key in ("name", "operation")]
        with suppress(ValueError, AttributeError, TypeError, KeyError):
            if source := source_of(request.json()["properties"]["creationData"]):
                names.append(source)
        with suppress(KeyError):
            names.append(self._operations[parts["operation"]].about)
        return Subject(route.action, " ".join(names) or parts.get("group", ""))

    def handle(self, request: Request) -> Response:
        """Who asks, whether he may, and then the answer."""
        headers = {"x-ms-request-id": str(uuid.uuid4()), "x-ms-correlation-request-id": str(uuid.uuid4())}
        try:
            self._authenticate(request)
            found = self._find(request)
            if found is None:
                raise Refused(404, "InvalidResourceType", f"The resource type of {request.path} could not be found.")
            if "api-version" not in request.query:
                message = "The api-version query parameter (?api-version=) is required for all requests."
                raise Refused(400, "MissingApiVersionParameter", message)
            route, parts = found
            if parts["subscription"] != SUBSCRIPTION:
                message = f"The subscription '{parts['subscription']}' could not be found."
                raise Refused(404, "SubscriptionNotFound", message)
            self._authorize(route.action, request.path)
            response = route.handler(request, **{k: v for k, v in parts.items() if k != "subscription"})
        except Refused as error:
            response = Response.of(error.body(), error.status, code=error.code)
        response.headers.update(headers)
        return response

    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        """Faults, as the service words them."""
        if kind == "throttle":
            message = f"Number of requests for subscription '{SUBSCRIPTION}' exceeded the limit. Please try again later."
            error = Refused(429, "SubscriptionRequestsThrottled", message)
            return Response.of(error.body(), 429, {"Retry-After": str(int(seconds))} if seconds else {}, error.code)
        if kind == "denied":
            error = denied(subject.action, subject.resource)
        else:
            error = Refused(500, "InternalServerError", "An internal server error has occurred.")
        return Response.of(error.body(), error.status, code=error.code)

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.startswith("token-"):
            raise Refused(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        if token.startswith("token-expired"):
            message = "The access token expiry UTC time '1/1/2026 1:00:00 AM' is earlier than current UTC time."
            raise Refused(401, "ExpiredAuthenticationToken", message)

    def _permits(self, action: str) -> bool:
        more = self.cloud.settings.more

        def one_of(patterns: list[str]) -> bool:
            return any(fnmatch.fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)

        return one_of(more.get("actions", ["*"])) and not one_of(more.get("not_actions", []))

    def _authorize(self, action: str, what: str) -> None:
        if not self._permits(action):
            raise denied(action, what)

    # Resources

    def _get(self, request: Request, kind: str, group: str, name: str) -> Response:
        return Response.of(self.compute.get(kind, group, name).show())

    def _list(self, request: Request, kind: str, group: str) -> Response:
        if group.lower() not in GROUPS:
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        first = int(request.query.get("$skiptoken", 0))
        found = self.compute.all(kind, group)
        if kind == "snapshots":
            lag = self.cloud.settings.lag_ms / 1000
            found = [each for each in found if time.time() >= each.made.requested + lag]
        length = int(self.cloud.settings.more.get("page", PAGE))
        value = [loud(each.show(), each.group) for each in found[first : first + length]]
        page: dict[str, Any] = {"value": value}
        if first + length < len(found):
            query = urlencode({"api-version": request.query["api-version"], "$skiptoken": first + length})
            page["nextLink"] = f"{request.origin}{request.path}?{query}"
        return Response.of(page)

    def _put(self, request: Request, kind: str, group: str, name: str) -> Response:
        body = request.json()
        if group.lower() not in GROUPS:
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        # What the service says of a bad name.
        rule = r"^[^_\W][\w-._]{0,79}(?<![-.])$"
        if not re.fullmatch(r"[^_\W][\w\-._]{0,79}(?<![-.])", name):
            message = f"The entity name '{kind[:-1]}.name' is invalid according to its validation rule: {rule}."
            raise Refused(400, "InvalidParameter", message, f"{kind[:-1]}.name")
        self._locked(f"{scope(group)}/providers/Microsoft.Compute/{kind}/{name}", "write", ("ReadOnly",))
        if kind == "disks":
            disk = self.compute.put_disk(group, name, body)
            return self._accepted(request, disk.show(), Operation(disk.name, lambda: ("Succeeded", None), disk.show))
        self._may_read_source(body)
        if "instantAccessDurationMinutes" in (body.get("properties") or {}).get("creationData", {}) and request.query["api-version"] < "2025":
            raise Refused(400, "InvalidParameter", "Instant access needs a later version of the API.", "instantAccessDurationMinutes")
        snapshot, is_new = self.compute.put_snapshot(group, name, body)
        if is_new and snapshot.made.disk.name in self.cloud.settings.more.get("fail_operation", []):
            self.compute.delete_snapshot(snapshot)
            error = {"code": "InternalExecutionError", "message": "An internal execution error occurred."}
            return self._accepted(request, body, Operation(name, lambda: ("Failed", error), snapshot.show))

        def state() -> tuple[str, dict[str, str] | None]:
            phase = snapshot.made.phase
            if phase is Phase.FAILED:
                return "Failed", {"code": "InternalExecutionError", "message": snapshot.made.reason or "deleted"}
            return ("InProgress" if phase is Phase.CREATING else "Succeeded"), None

        shown = snapshot.show()
        if is_new:
            shown["properties"]["provisioningState"] = "Updating"
        return self._accepted(request, shown, Operation(snapshot.name, state, snapshot.show))

    def _may_read_source(self, body: Any) -> None:
        """A snapshot needs a permission on its disk, too."""
        with suppress(KeyError, TypeError, AttributeError):
            source = source_of(body["properties"]["creationData"]) or ""
            action = "Microsoft.Compute/disks/beginGetAccess/action"
            if "/disks/" in source.lower() and not self._permits(action):
                error = denied(action, source)
                raise Refused(403, "LinkedAuthorizationFailed", error.message)

    def _delete(self, request: Request, kind: str, group: str, name: str) -> Response:
        try:
            found = self.compute.get(kind, group, name)
        except Refused as error:
            if error.code == "ResourceNotFound":
                return Response(204)
            raise
        self._locked(found.id, "delete", ("ReadOnly", "CanNotDelete"))
        (self.compute.delete_disk if kind == "disks" else self.compute.delete_snapshot)(found)
        return self._accepted(request, None, Operation(name, lambda: ("Succeeded", None), lambda: None))

    def _locked(self, resource: str, doing: str, levels: tuple[str, ...]) -> None:
        on = [lock["scope"] for lock in self._all_locks() if lock["level"] in levels]
        if hit := [each for each in on if f"{resource}/".lower().startswith(f"{each}/".lower())]:
            message = f"The scope '{resource}' cannot perform {doing} operation because following scope(s) are locked: "
            raise Refused(409, "ScopeLocked", f"{message}'{hit[0]}'. Please remove the lock and try again.")

    def _change_disks(self, request: Request, group: str, name: str) -> Response:
        if request.query.get("api-version") not in VERSIONS["virtualMachines"]:
            raise wrong_version(request, "virtualMachines", VERSIONS["virtualMachines"])
        machine, body = self.compute.get("virtualMachines", group, name), request.json()
        for wanted in body.get("dataDisksToDetach") or []:
            disk = self.compute.by_id(wanted["diskId"])
            if disk.owner is machine:
                self.compute.detach(disk)
        for wanted in body.get("dataDisksToAttach") or []:
            self.compute.attach(machine, self.compute.by_id(wanted["diskId"]), wanted.get("lun"))
        return self._accepted(request, None, Operation(name, lambda: ("Succeeded", None), machine.storage), "operations")

    # Operations

    def _accepted(self, request: Request, shown: Any, operation: Operation, kind: str = "DiskOperations") -> Response:
        """202 with the addresses at which the operation can be followed."""
        self._operations[operation.id] = operation
        path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{LOCATION}/{kind}/{operation.id}"
        version = "api-version=2024-03-02" if kind == "DiskOperations" else "api-version=2024-07-01"
        address = f"{request.origin}{path}"
        headers = {"Azure-AsyncOperation": f"{address}?{version}", "Location": f"{address}?monitor=true&{version}"}
        response = Response.of(shown, 202) if shown is not None else Response(202)
        response.headers.update({**headers, "Retry-After": str(self.cloud.settings.more.get("poll_s", 1))})
        return response

    def _operation(self, request: Request, location: str, operation: str) -> Response:
        found = self._operations.get(operation)
        if found is None:
            raise Refused(404, "NotFound", f"The entity {operation} was not found.")
        state, error = found.state()
        retry = {"Retry-After": str(self.cloud.settings.more.get("poll_s", 1))} if state == "InProgress" else {}
        if request.query.get("monitor") == "true":
            if state == "InProgress":
                return Response(202, headers=retry)
            if error:
                return Response.of({"error": error}, 500, code=error["code"])
            shown = found.result()
            return Response.of(shown) if shown is not None else Response(204)
        body = {"name": found.id, "startTime": found.started, "status": state}
        return Response.of({**body, **({"error": error} if error else {})}, headers=retry)

    # Authorization

    def _permissions(self, request: Request, group: str) -> Response:
        more = self.cloud.settings.more
        role = {"actions": more.get("actions", ["*"]), "notActions": more.get("not_actions", [])}
        return Response.of({"value": [{**role, "dataActions": [], "notDataActions": []}]})

    def _all_locks(self) -> list[dict[str, str]]:
        locks: list[dict[str, str]] = self.cloud.settings.more.get("locks", [])
        return locks

    def _locks(self, request: Request, group: str) -> Response:
        value = [
            {
                "id": f"{lock['scope']}/providers/Microsoft.Authorization/locks/lock{number}",
                "name": f"lock{number}",
                "type": "Microsoft.Authorization/locks",
                "properties": {"level": lock["level"]},
            }
            for number, lock in enumerate(self._all_locks())
            if lock["scope"].lower().startswith(scope(group).lower())
        ]
        return Response.of({"value": value})


class Operation:
    """An asynchronous operation."""

    def __init__(self, about: str, state: Callable[[], tuple[str, dict[str, str] | None]], result: Callable[[], Any]) -> None:
        """`state` says status and error, `result` what is shown at the end."""
        self.id, self.about, self.started = str(uuid.uuid4()), about, now()
        self.state, self.result = state, result


class Metadata(Api):
    """What a machine sees: tokens for its identity, and which machine it is. The first machine of the world."""

    def __init__(self, cloud: AzureCloud) -> None:
        """Of this world."""
        self.cloud: AzureCloud = cloud
        self._tokens = 0

    def identify(self, request: Request) -> Subject:
        """`token` or `metadata`."""
        return Subject("metadata" if request.path.startswith("/metadata/instance") else "token", request.query.get("resource", ""))

    def handle(self, request: Request) -> Response:
        """A token, or the description of the machine."""
        if request.path.startswith("/metadata/instance"):
            machines = self.cloud.compute.all("virtualMachines")
            if request.headers.get("metadata") != "true" or not machines:
                return Response.of({"error": "Bad request. Required metadata header not specified"}, 400)
            machine = machines[0]
            return Response.of(
                {
                    "name": machine.name,
                    "resourceGroupName": machine.group,
                    "subscriptionId": SUBSCRIPTION,
                    "location": machine.location,
                    "vmSize": machine.size,
                    "zone": "".join(machine.zones),
                }
            )
        if request.headers.get("x-identity-header") != HEADER:
            return Response.of({"statusCode": 401, "message": "the header of the identity is wrong"}, 401)
        self._tokens += 1
        kind = "token-expired" if self.cloud.settings.more.get("token") == "expired" else "token"
        return Response.of(
            {
                "access_token": f"{kind}-{self._tokens}",
                "expires_on": str(int(time.time()) + 3600),
                "resource": request.query.get("resource", ""),
                "token_type": "Bearer",
            }
        )

    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        """Faults."""
        status = {"throttle": 429, "denied": 403}.get(kind, 500)
        return Response.of({"statusCode": status, "message": kind}, status)


def denied(action: str, what: str) -> Refused:
    """What the service says when a role lacks an action."""
    message = (
        f"The client 'c' with object id 'o' does not have authorization to perform action '{action}' over scope "
        f"'{what}' or the scope is invalid. If access was recently granted, please refresh your credentials."
    )
    return Refused(403, "AuthorizationFailed", message)


def wrong_version(request: Request, kind: str, known: set[str]) -> Refused:
    """What the service says of a version that a resource type does not have."""
    version = request.query.get("api-version", "")
    message = f"No registered resource provider found for location '{LOCATION}' and API version '{version}' for type '{kind}'. "
    return Refused(400, "NoRegisteredProviderFound", f"{message}The supported api-versions are '{', '.join(sorted(known))}'.")


def loud(shown: dict[str, Any], group: str) -> dict[str, Any]:
    """The same with its group in capitals, as lists of the service have it."""
    part = f"/resourceGroups/{group}/"
    return {**shown, "id": shown["id"].replace(part, part.replace(group, group.upper()))}
