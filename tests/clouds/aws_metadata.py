"""The instance metadata service of the fake, version 2: which machine this is, and credentials of its role.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html. Clients find it by
`AWS_EC2_METADATA_SERVICE_ENDPOINT`, and use it where nothing says `AWS_EC2_METADATA_DISABLED`.

Invariant: without a session token, which only PUT gives, nothing is told. Version 1 is off, as machines of today have it.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from .httpd import Api, Request, Response, Subject

if TYPE_CHECKING:
    from .aws import AwsCloud

TOKEN = "/latest/api/token"
ROOT = "/latest/meta-data/"
ROLE = "barman-snap"
_TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_HEADER = "x-aws-ec2-metadata-token"
_LONGEST = 21600


class Metadata(Api):
    """The server."""

    def __init__(self, cloud: AwsCloud) -> None:
        """Of this cloud. It says to be the instance `here` of the settings, or the first one."""
        self.cloud: AwsCloud = cloud
        self._tokens: set[str] = set()

    def identify(self, request: Request) -> Subject:
        """No permission is needed."""
        return Subject("metadata", request.path.removeprefix(ROOT))

    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        """It has no errors of its own but these."""
        return Response({"throttle": 429, "denied": 403}.get(kind, 503), b"")

    def handle(self, request: Request) -> Response:
        """A session token, or one value."""
        if request.path == TOKEN:
            return self._token(request)
        if request.headers.get(_HEADER) not in self._tokens:
            return Response(401, b"")
        value = self._value(request.path.removeprefix(ROOT)) if request.method == "GET" else None
        if value is None:
            return Response(404, b"")
        return Response(200, value.encode(), {"Content-Type": "text/plain"})

    def _token(self, request: Request) -> Response:
        life = request.headers.get(_TTL, "")
        if request.method != "PUT" or not life.isdecimal() or not 1 <= int(life) <= _LONGEST:
            return Response(400, b"")
        token = secrets.token_urlsafe(16)
        self._tokens.add(token)
        return Response(200, token.encode(), {_TTL: life})

    def _value(self, key: str) -> str | None:
        match key:
            case "placement/region":
                return self.cloud.region
            case "iam/security-credentials" | "iam/security-credentials/":
                return ROLE
            case "iam/security-credentials/barman-snap":
                return json.dumps(_credentials())
        here = self.cloud.here()
        if here is None:
            return None
        identity, zone = here
        return {"instance-id": identity, "placement/availability-zone": zone}.get(key)


def _credentials() -> dict[str, str]:
    now = datetime.now(timezone.utc)

    def text(time: datetime) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ")

    return {
        "Code": "Success",
        "LastUpdated": text(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAROLEOFTHEMACHINE",
        "SecretAccessKey": "secret",
        "Token": "session",
        "Expiration": text(now + timedelta(hours=6)),
    }
