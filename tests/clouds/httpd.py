"""An HTTP server for fakes: one thread per connection, optional TLS, and in front of every call the log and the faults.

A fake says what a request is about (`identify`), answers it (`handle`), and knows how its cloud words a refusal
(`refusal`). `Gate` does the rest, and is also used by servers that are not `Server` (moto has one of its own).
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from . import tls
from .cloud import CONTROL, Cloud


@dataclass
class Request:
    """A request as it came."""

    method: str
    path: str
    """Percent-encoded, as it came: an object's key may contain an encoded slash."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""
    origin: str = ""
    """Scheme and host, as the client has called this server: `https://management.azure.com`."""

    def json(self) -> Any:
        """The body as JSON; an empty one is an empty object. `ValueError` when it is neither."""
        return json.loads(self.body) if self.body else {}


@dataclass
class Response:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    """The cloud's own word for an error, for the log of calls."""

    @classmethod
    def of(cls, data: Any, status: int = 200, headers: dict[str, str] | None = None, code: str | None = None) -> Response:
        """JSON."""
        body = json.dumps(data).encode()
        return cls(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, code)


class Subject(NamedTuple):
    """What a request is about."""

    action: str
    """As the cloud's list of permissions names it: `CreateSnapshot`, `compute.disks.createSnapshot`,
    `Microsoft.Compute/snapshots/write`."""
    resource: str
    """Ids and names, separated by blanks."""
    dry_run: bool = False


class NoReply(Exception):
    """The connection is to be closed without an answer."""


class Gate:
    """Between a server and its fake: writes down every call, and lets go wrong what shall go wrong."""

    def __init__(self, cloud: Cloud) -> None:
        """With the faults and the log of `cloud`."""
        self._cloud = cloud
        self.closing = threading.Event()

    def control(self, method: str, path: str, body: bytes) -> Response | None:
        """The answer to a control request, if it is one."""
        if not path.startswith(CONTROL):
            return None
        status, data = self._cloud.control(method, path, body)
        return Response.of(data, status)

    def call(
        self, subject: Subject, handle: Callable[[], Response], refusal: Callable[[str, Subject, float], Response]
    ) -> Response:
        """Answers a call by `handle`, unless a fault hits it. `NoReply` when there shall be no answer.

        `refusal` words a fault of kind `throttle`, `denied` or `fail`; its last argument is the time to wait.
        """
        fault = self._cloud.faults.take(subject.action, subject.resource)
        kind = fault.kind if fault else None
        call = self._cloud.calls.begin(subject.action, subject.resource, kind, subject.dry_run)
        try:
            if fault and kind in ("throttle", "denied", "fail"):
                response = refusal(kind, subject, fault.seconds)
            else:
                if fault and kind == "late":
                    timer = threading.Timer(fault.seconds, handle)
                    timer.daemon = True
                    timer.start()
                    raise NoReply
                if fault and kind in ("hang", "delay"):
                    self.closing.wait(fault.seconds)
                if kind == "hang":
                    raise NoReply
                response = handle()
                if kind == "lost_reply":
                    raise NoReply
        except NoReply:
            self._cloud.calls.end(call, 0)
            raise
        except BaseException:
            self._cloud.calls.end(call, 500, "exception in the fake")
            raise
        self._cloud.calls.end(call, response.status, response.code)
        return response


class Api(ABC):
    """One API of a fake, on a server of its own."""

    cloud: Cloud

    @abstractmethod
    def identify(self, request: Request) -> Subject:
        """What a request is about. Must not fail: what is unknown has the action `unknown`."""

    @abstractmethod
    def handle(self, request: Request) -> Response:
        """Answers a request."""

    @abstractmethod
    def refusal(self, kind: str, subject: Subject, seconds: float) -> Response:
        """How this cloud says `throttle` (wait so many seconds), `denied` or `fail` (an internal error)."""

    def broken(self, error: Exception) -> Response:
        """Words an exception in the fake itself: never to be mistaken for a behaviour of the cloud."""
        return Response.of({"error": f"the fake has a defect: {error!r}"}, 599)


class Routes:
    """Finds the handler of a method and a path. A template is `/projects/{project}/zones/{zone}/disks`."""

    def __init__(self) -> None:
        """None."""
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []

    def add(self, method: str, template: str, handler: Callable[..., Any], flags: re.RegexFlag = re.RegexFlag(0)) -> None:
        """Adds one. A part in braces is one segment of the path, and becomes a keyword argument. Azure's paths do not
        depend on case: `re.IGNORECASE`."""
        literal = re.split(r"\{(\w+)\}", template)
        pattern = "".join(re.escape(part) if i % 2 == 0 else f"(?P<{part}>[^/]+)" for i, part in enumerate(literal))
        self._routes.append((method, re.compile(pattern, flags), handler))

    def find(self, request: Request) -> tuple[Callable[..., Any], dict[str, str]] | None:
        """The handler and its keyword arguments, decoded."""
        for method, pattern, handler in self._routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                return handler, {name: unquote(value) for name, value in match.groupdict().items()}
        return None


class Server:
    """A running server for one `Api`. Stops when closed."""

    def __init__(self, api: Api, host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None) -> None:
        """Listens on `port`, or any free one."""
        self.gate = Gate(api.cloud)
        self._http = _Listener((host, port), _handler(api, self.gate))
        if context is not None:
            # The handshake belongs to the thread of the connection: a slow client must not hold up the others.
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://{host}:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Takes no more connections, and ends the waiting of calls that hang."""
        self.gate.closing.set()
        self._http.shutdown()
        self._http.server_close()


def as_host(name: str, api: Api, root: Path) -> Server:
    """`api` as the host `name`: by HTTPS on port 443, for clients that cannot be told another address. They find its
    address by `/etc/hosts`, and trust `tls.authority(root)`.

    Every set takes an address of its own, so that several can have the port.
    """
    context = tls.server(root, name, [name])
    for attempt in range(20):
        numbers = [secrets.randbelow(254) + 1 for _ in range(3)]
        try:
            return Server(api, f"127.{numbers[0]}.{numbers[1]}.{numbers[2]}", 443, context)
        except OSError:
            # Somebody else has just this one, or port 443 of all addresses.
            if attempt == 19:
                raise
    raise AssertionError("the last attempt raises")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; anything else was answered by `Api.broken`."""


def drop(connection: socket.socket) -> None:
    """Closes a connection without another byte."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _handler(api: Api, gate: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer is two small writes; without this the second waits for the first to be acknowledged.
        disable_nagle_algorithm = True

        def answer(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
            origin = f"{scheme}://{headers.get('host', '')}"
            request = Request(self.command, parts.path, query, headers, self._body(headers), origin)
            try:
                response = gate.control(request.method, request.path, request.body)
                if response is None:
                    response = gate.call(api.identify(request), lambda: api.handle(request), api.refusal)
            except NoReply:
                self.close_connection = True
                drop(self.connection)
                return
            except Exception as error:  # noqa: BLE001 - told to the client, which is the test
                response = api.broken(error)
            self._send(response)

        def _body(self, headers: dict[str, str]) -> bytes:
            if headers.get("expect", "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            if headers.get("transfer-encoding", "").lower() != "chunked":
                return self.rfile.read(int(headers.get("content-length") or 0))
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(chunks)

        def _send(self, response: Response) -> None:
            self.send_response(response.status)
            headers = {name.lower(): value for name, value in response.headers.items()}
            # The answer to HEAD says the length of what it does not send; so it may set the length itself.
            if response.status != 204:
                headers.setdefault("content-length", str(len(response.body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
            """The log of calls is better."""

    return Handler


def wait_until(check: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits until a server that was started is there."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


def listens(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
