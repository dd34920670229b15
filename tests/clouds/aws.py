"""AWS: moto's server with disks. EC2's EBS calls are `aws_ebs`; S3, STS, tags and instances are moto's own.

One server answers all services, as moto does: `AWS_ENDPOINT_URL` is all that a client needs. Actions are named as in IAM,
without the prefix for EC2 (`CreateSnapshot`), with it for others (`s3:PutObject`, `sts:GetCallerIdentity`).
`aws_metadata` is another server, which a client finds by `AWS_EC2_METADATA_SERVICE_ENDPOINT`; `env` turns it off.

The cut of a snapshot happens before the call is answered; `cut_ms` delays the answer.
`more` of the settings: `day_ms` (`aws_locks`), `init_ms` (`Ebs.initialised`), `snapshot_quota` (snapshots in the region), `token`
(`expired`: every credential is an old one), `here` (the name or id of the instance that the metadata service is on).
More of an instance: `instance_type` (`t2.medium`, whose disks are `/dev/xvdf`; `m5.large` shows NVMe devices), `zone`.
More of a disk: `zone`, `volume_type`.
"""

from __future__ import annotations

import io
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

from .cloud import CONTROL, Cloud, Place, Unknown
from .faults import BadControl
from .httpd import Gate, NoReply, Response, Server, Subject, drop

# Before moto is imported: it would make thousands of images.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

import moto.ec2.urls  # noqa: E402
from moto.core import DEFAULT_ACCOUNT_ID  # type: ignore[attr-defined]  # noqa: E402
from moto.ec2.models import ec2_backends  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server  # noqa: E402
from werkzeug.test import Client  # noqa: E402

from .aws_ebs import Ebs, name_of, responses  # noqa: E402
from . import tls  # noqa: E402
from .aws_metadata import Metadata  # noqa: E402

REGION = "us-east-1"
BUCKET = "backups"

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def start(place: Place) -> AwsCloud:
    """Starts it, with one empty bucket. Only one at a time, as moto's world is global to the process."""
    return AwsCloud(place)


class AwsCloud(Cloud):
    """The server, and the world behind it."""

    name = "aws"

    def __init__(self, place: Place) -> None:
        """Starts the server."""
        super().__init__(place)
        self.ebs = Ebs(self.store, self.settings)
        moto.ec2.urls.url_paths["{0}/"] = responses(self.ebs).dispatch
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._client = Client(self._moto)
        self._gate = Gate(self)
        self._server = make_server("127.0.0.1", 0, self._guarded, threaded=True, request_handler=_QuietHandler)
        self._secure = self._over_tls(place) if place.tls else None
        for server in filter(None, (self._server, self._secure)):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self._inside("s3", "PUT", f"/{BUCKET}")
        self._metadata = Server(Metadata(self))

    def _over_tls(self, place: Place) -> Any:
        hosts = [f"{service}.{REGION}.amazonaws.com" for service in ("ec2", "sts")]
        context = tls.server(place.root.parent, "aws", hosts)
        options: dict[str, Any] = {"threaded": True, "request_handler": _QuietHandler, "ssl_context": context}
        return make_server("127.0.0.1", 0, self._guarded, **options)

    @property
    def backend(self) -> Any:
        """What moto knows of EC2 in our region."""
        return ec2_backends[DEFAULT_ACCOUNT_ID][REGION]

    def endpoints(self) -> dict[str, str]:
        """One for all services, and the metadata service."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        secure = {"tls": f"https://127.0.0.1:{self._secure.server_port}"} if self._secure else {}
        return {"api": url, "store": url, "catalog": f"s3://{BUCKET}/catalog", "metadata": self._metadata.url, **secure}

    def env(self) -> dict[str, str]:
        """For every AWS client."""
        return {
            "AWS_ENDPOINT_URL": self.endpoints()["api"],
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def close(self) -> None:
        """Stops the servers."""
        self._metadata.close()
        self._gate.closing.set()
        for server in filter(None, (self._server, self._secure)):
            server.shutdown()
            server.server_close()

    # This machine

    @property
    def region(self) -> str:
        """Where everything is."""
        return REGION

    def here(self) -> tuple[str, str] | None:
        """Id and zone of the instance that this machine is."""
        wanted = self.settings.more.get("here")
        for each in self._instances():
            if wanted in (None, each.id, name_of(each)):
                return str(each.id), str(each.placement)
        return None

    # The API

    def _guarded(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """moto behind the gate."""
        body = _read(environ)
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        response = self._gate.control(method, path, body) if path.startswith(CONTROL) else None
        if response is None:
            service = _service(environ)
            form = dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True)) if service != "s3" else {}
            subject = self._identify(service, environ, form)

            def answer() -> Response:
                expired = self.settings.more.get("token") == "expired"
                return refusal(service, "expired", subject, 0) if expired else self._answer(environ, body)

            try:
                response = self._gate.call(subject, answer, lambda *what: refusal(service, *what))
            except NoReply:
                drop(environ["werkzeug.socket"])
                raise ConnectionAbortedError from None
        headers = {name.lower(): value for name, value in response.headers.items()}
        if method != "HEAD":
            headers["content-length"] = str(len(response.body))
        start_response(f"{response.status} {_REASONS.get(response.status, 'Status')}", list(headers.items()))
        return [response.body]

    def _answer(self, environ: Environ, body: bytes) -> Response:
        """What moto says."""
        inner = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        inner.pop("HTTP_TRANSFER_ENCODING", None)
        answer: dict[str, Any] = {}

        def started(status: str, headers: list[tuple[str, str]], _info: Any = None) -> Callable[[bytes], None]:
            answer.update(status=int(status.split(" ", 1)[0]), headers=dict(headers))
            return lambda _: None

        chunks = self._moto(inner, started)
        text = b"".join(chunks)
        if isinstance(chunks, Iterator) or hasattr(chunks, "close"):
            chunks.close()
        code = _tag(text, "Code") if answer["status"] >= 400 else None
        return Response(answer["status"], text, answer["headers"], code)

    def _identify(self, service: str, environ: Environ, form: dict[str, str]) -> Subject:
        if service == "s3":
            return Subject(f"s3:{s3_action(environ)}", environ["PATH_INFO"].lstrip("/"))
        ids = [value for key, value in form.items() if key.split(".")[-1].rstrip("s").endswith("Id") or "Id." in key]
        names = [form[key.replace(".Key", ".Value")] for key, value in form.items() if key.endswith(".Key") and value == "Name"]
        known = [name for name in map(self._name, ids) if name]
        action = form.get("Action", "unknown")
        action = action if service == "ec2" else f"{service}:{action}"
        return Subject(action, " ".join(dict.fromkeys(ids + known + names)), form.get("DryRun") == "true")

    def _name(self, identity: str) -> str:
        """The name of an instance, volume or snapshot; of a snapshot also that of its volume."""
        backend = self.backend
        if (snapshot := backend.snapshots.get(identity)) is not None:
            return f"{name_of(snapshot)} {name_of(snapshot.volume)}".strip()
        if (volume := backend.volumes.get(identity)) is not None:
            return name_of(volume)
        return next((name_of(each) for each in self._instances() if each.id == identity), "")

    # The world

    def _instances(self) -> list[Any]:
        everything = [each for reservation in self.backend.reservations.values() for each in reservation.instances]
        return [each for each in everything if each.state != "terminated"]

    def _inside(self, service: str, method: str, path: str, form: dict[str, str] | None = None) -> ElementTree.Element | None:
        """A call that the tests do not see, for laying out the world."""
        scope = f"Credential=test/20260101/{REGION}/{service}/aws4_request"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
        answer = self._client.open(path, method=method, data=form, headers=headers)
        if answer.status_code >= 300:
            raise BadControl(f"{_tag(answer.data, 'Code')}: {_tag(answer.data, 'Message') or answer.data[:200]!r}")
        return ElementTree.fromstring(answer.data) if answer.data else None

    def _ec2(self, action: str, **form: str) -> ElementTree.Element:
        parsed = self._inside("ec2", "POST", "/", {"Action": action, "Version": "2016-11-15", **form})
        assert parsed is not None
        return parsed

    def _volume(self, disk: str) -> Any:
        found = [each for each in self.backend.volumes.values() if disk in (each.id, name_of(each))]
        if len(found) != 1:
            raise Unknown(f"there are {len(found)} disks {disk!r}")
        return found[0]

    def _instance(self, instance: str) -> Any:
        found = [each for each in self._instances() if instance in (each.id, name_of(each))]
        if len(found) != 1:
            raise Unknown(f"there are {len(found)} instances {instance!r}")
        return found[0]

    def create_instance(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        """Runs one."""
        form = {
            **{"ImageId": "ami-12c6146b", "MinCount": "1", "MaxCount": "1"},
            "InstanceType": more.get("instance_type", "t2.medium"),
            "Placement.AvailabilityZone": more.get("zone", f"{REGION}a"),
            **_name_tag("instance", name),
        }
        made = _tag_of(self._ec2("RunInstances", **form), "instanceId")
        return {"id": made, "name": name}

    def create_disk(self, name: str, size_gib: int, more: dict[str, Any]) -> dict[str, Any]:
        """Makes one."""
        form = {
            "Size": str(size_gib),
            "AvailabilityZone": more.get("zone", f"{REGION}a"),
            "VolumeType": more.get("volume_type", "gp3"),
            **_name_tag("volume", name),
        }
        made = _tag_of(self._ec2("CreateVolume", **form), "volumeId")
        return {"id": made, "name": name}

    def attach(self, instance: str, disk: str, device: str | None) -> dict[str, Any]:
        """Attaches one. A free name is one of /dev/sd[f-p], or else of /dev/xvdb[a-z], both of which EBS allows."""
        machine, volume = self._instance(instance), self._volume(disk)
        names = [f"/dev/sd{letter}" for letter in "fghijklmnop"] + [f"/dev/xvdb{chr(97 + i)}" for i in range(26)]
        for name in [device] if device else names:
            try:
                self._ec2("AttachVolume", VolumeId=volume.id, InstanceId=machine.id, Device=name)
            except BadControl as error:
                if device or "already in use" not in str(error):
                    raise
                continue
            return {"id": volume.id, "device": name, "paths": self.ebs.disk(volume).paths}
        raise BadControl("no device name is free on this machine")

    def detach(self, disk: str) -> dict[str, Any]:
        """Detaches one."""
        volume = self._volume(disk)
        self._ec2("DetachVolume", VolumeId=volume.id)
        if volume.attachment is not None:
            raise BadControl(f"{disk} is mounted; it goes when it is unmounted")
        return {"id": volume.id}

    def destroy(self, disk: str) -> dict[str, Any]:
        """Loses one. Its instance goes on without it."""
        volume = self._volume(disk)
        with self.ebs.lock:
            self.ebs.gone(volume, lost=True)
            if volume.attachment is not None:
                self.backend.detach_volume(volume.id, volume.attachment.instance.id, volume.attachment.device)
            self.backend.delete_volume(volume.id)
        return {"id": volume.id}

    def world(self) -> dict[str, Any]:
        """What there is, root volumes too."""
        with self.ebs.lock:
            self.ebs.settle(self.backend)
            instances = [{"id": each.id, "name": name_of(each), "state": each.state} for each in self._instances()]
            disks = [self._described(volume) for volume in list(self.backend.volumes.values())]
            snapshots = [self._described_snapshot(snapshot) for snapshot in list(self.backend.snapshots.values())]
        return {"instances": instances, "disks": disks, "snapshots": snapshots}

    def _described(self, volume: Any) -> dict[str, Any]:
        found = {"id": volume.id, "name": name_of(volume), "state": volume.status, "snapshot": volume.snapshot_id}
        if volume.attachment is not None:
            paths = self.ebs.disk(volume).paths
            found.update(instance=volume.attachment.instance.id, device=volume.attachment.device, paths=paths)
        return found

    def _described_snapshot(self, snapshot: Any) -> dict[str, Any]:
        tags = {tag["key"]: tag["value"] for tag in snapshot.get_tags()}
        locked = self.ebs.locks.state(snapshot.id)
        known = {"id": snapshot.id, "name": name_of(snapshot), "state": self.ebs.described(snapshot)["State"]}
        return {**known, "disk": snapshot.volume_id, "tags": tags, "lock": locked}


class _QuietHandler(MotoRequestHandler):
    """The log of calls is better than lines on the standard error."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Nothing."""


_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden"}
_REASONS |= {404: "Not Found", 409: "Conflict", 412: "Precondition Failed", 500: "Internal Server Error", 503: "Unavailable"}

# What each service says: status, code and message.
_EC2 = {
    "throttle": (503, "RequestLimitExceeded", "Request limit exceeded."),
    "denied": (403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
    "fail": (500, "InternalError", "An internal error has occurred"),
    "expired": (400, "RequestExpired", "Request has expired."),
}
_S3 = {
    "throttle": (503, "SlowDown", "Please reduce your request rate."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "fail": (500, "InternalError", "We encountered an internal error. Please try again."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
_OTHER = {
    "throttle": (400, "Throttling", "Rate exceeded"),
    "denied": (403, "AccessDenied", "The user is not authorized to perform this operation."),
    "fail": (500, "InternalFailure", "The request processing has failed because of an unknown error."),
    "expired": (403, "ExpiredToken", "The security token included in the request is expired"),
}


def refusal(service: str, kind: str, _subject: Subject, _seconds: float) -> Response:
    """A fault, or `expired`, as this service words it. None of them says how long to wait."""
    status, code, message = {"ec2": _EC2, "s3": _S3}.get(service, _OTHER)[kind]
    request = uuid.uuid4()
    error = f"<Code>{code}</Code><Message>{message}</Message>"
    if service == "ec2":
        text = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request}</RequestID></Response>"
    elif service == "s3":
        text = f"<Error>{error}<RequestId>{request}</RequestId></Error>"
    else:
        text = f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>{request}</RequestId></ErrorResponse>"
    body = b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode()
    return Response(status, body, {"Content-Type": "text/xml"}, code)


def s3_action(environ: Environ) -> str:
    """The permission that a request to S3 needs.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
    """
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").partition("/")[2]
    if not key:
        if "delete" in query:
            return "DeleteObject"
        listing = "ListBucketMultipartUploads" if "uploads" in query else "ListBucket"
        return {"PUT": "CreateBucket", "DELETE": "DeleteBucket"}.get(method, listing)
    for part, noun in (("tagging", "ObjectTagging"), ("retention", "ObjectRetention"), ("legal-hold", "ObjectLegalHold")):
        if part in query:
            return {"PUT": "Put", "DELETE": "Delete"}.get(method, "Get") + noun
    if method == "DELETE":
        return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
    return "GetObject" if method in ("GET", "HEAD") else "PutObject"


def _read(environ: Environ) -> bytes:
    body: bytes
    if environ.get("wsgi.input_terminated"):
        body = environ["wsgi.input"].read()
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _service(environ: Environ) -> str:
    """The service that a request was signed for; without a signature S3, as moto does."""
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split(",")[0].split("/")
    return scope[3] if len(scope) > 3 else "s3"


def _tag(text: bytes, name: str) -> str | None:
    """The content of the first XML element of this name, whatever its namespace."""
    try:
        return _tag_of(ElementTree.fromstring(text), name)
    except (ElementTree.ParseError, LookupError):
        return None


def _tag_of(parsed: ElementTree.Element, name: str) -> str:
    for element in parsed.iter():
        if element.tag.rpartition("}")[2] == name:
            return element.text or ""
    raise LookupError(f"the answer has no {name}")


def _name_tag(kind: str, name: str) -> dict[str, str]:
    prefix = "TagSpecification.1"
    return {f"{prefix}.ResourceType": kind, f"{prefix}.Tag.1.Key": "Name", f"{prefix}.Tag.1.Value": name}
