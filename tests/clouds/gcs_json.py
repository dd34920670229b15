"""The JSON API of Cloud Storage, as google-cloud-storage uses it: https://cloud.google.com/storage/docs/json_api."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import itertools
import json
import re
from typing import Any
from urllib.parse import quote, unquote, urlsplit, parse_qsl

from .gcs_objects import Blob, Objects, Preconditions, StoreError, not_found, rfc3339
from .httpd import Request, Response

PAGE = 1000


def conditions(query: dict[str, str], prefix: str = "if") -> Preconditions:
    """Those of the query."""

    def number(name: str) -> int | None:
        value = query.get(f"{prefix}{name}")
        return None if value is None else int(value)

    return Preconditions(
        number("GenerationMatch"),
        number("GenerationNotMatch"),
        number("MetagenerationMatch"),
        number("MetagenerationNotMatch"),
    )


def error(failure: StoreError) -> Response:
    """The body of an error."""
    detail = {"message": failure.message, "domain": "global", "reason": failure.reason}
    body = {"error": {"code": failure.status, "message": failure.message, "errors": [detail]}}
    return Response.of(body, failure.status, code=failure.reason)


def sliced(request: Request, data: bytes) -> tuple[int, bytes, dict[str, str]]:
    """What a `Range` header asks for: status, bytes, headers."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not match or not any(match.groups()):
        return 200, data, {}
    first, last = match.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start >= len(data):
        raise StoreError(
            416, "InvalidRange", "requestedRangeNotSatisfiable", "The requested range cannot be satisfied."
        )
    return 206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"}


class Json:
    """The API."""

    def __init__(self, objects: Objects) -> None:
        """Of these objects."""
        self.objects = objects
        self.url = ""
        self._uploads: dict[str, tuple[dict[str, str], dict[str, Any], str, bytearray]] = {}
        self._numbers = itertools.count(1)

    def handle(self, request: Request, parts: list[str]) -> Response:
        """`parts` are those of the path after `/storage/v1` (or `upload`, `download`), decoded."""
        match request.method, parts:
            case "GET", ["b"]:
                items = [self._bucket(bucket) for bucket in self.objects.buckets()]
                return Response.of({"kind": "storage#buckets", **({"items": items} if items else {})})
            case "POST", ["b"]:
                body = request.json()
                self.objects.make_bucket(body["name"], request.query.get("project", ""))
                return Response.of(self._bucket(body["name"]))
            case "GET", ["b", bucket]:
                with self.objects.lock:
                    self.objects.bucket(bucket)
                    return Response.of(self._bucket(bucket))
            case "DELETE", ["b", bucket]:
                self.objects.remove_bucket(bucket)
                return Response(204)
            case "GET", ["b", bucket, "o"]:
                return Response.of(self._list(request, bucket))
            case _, ["b", bucket, "o", name]:
                return self._object(request, bucket, name)
            case "POST", ["b", bucket, "o", name, ("rewriteTo" | "copyTo") as how, "b", to, "o", new]:
                return Response.of(self._copy(request, bucket, name, to, new, how))
            case "POST", ["b", bucket, "o", name, "compose"]:
                return Response.of(self._compose(request, bucket, name))
        raise StoreError(404, "NoSuchKey", "notFound", "Not Found")

    def _bucket(self, bucket: str) -> dict[str, Any]:
        created = rfc3339(self.objects.created[bucket])
        return {
            "kind": "storage#bucket",
            "id": bucket,
            "name": bucket,
            "selfLink": f"{self.url}/storage/v1/b/{bucket}",
            "projectNumber": "1",
            "location": "EUROPE-WEST1",
            "locationType": "region",
            "storageClass": "STANDARD",
            "metageneration": "1",
            "timeCreated": created,
            "updated": created,
            "etag": "CAE=",
        }

    def shown(self, blob: Blob) -> dict[str, Any]:
        """An object as the API shows it."""
        path = f"{quote(blob.bucket, safe='')}/o/{quote(blob.name, safe='')}"
        shown: dict[str, Any] = {
            "kind": "storage#object",
            "id": f"{blob.bucket}/{blob.name}/{blob.generation}",
            "selfLink": f"{self.url}/storage/v1/b/{path}",
            "mediaLink": f"{self.url}/download/storage/v1/b/{path}?generation={blob.generation}&alt=media",
            "name": blob.name,
            "bucket": blob.bucket,
            "generation": str(blob.generation),
            "metageneration": str(blob.metageneration),
            "contentType": blob.content_type,
            "storageClass": blob.storage_class,
            "size": str(len(blob.data)),
            "md5Hash": blob.md5,
            "crc32c": blob.crc,
            "etag": base64.b64encode(f"{blob.generation}/{blob.metageneration}".encode()).decode(),
            "timeCreated": rfc3339(blob.created),
            "updated": blob.updated_at,
            "timeStorageClassUpdated": rfc3339(blob.created),
        }
        if blob.metadata:
            shown["metadata"] = blob.metadata
        if blob.kms_key:
            shown["kmsKeyName"] = blob.kms_key
        return shown

    def _list(self, request: Request, bucket: str) -> dict[str, Any]:
        query = request.query
        size = min(int(query.get("maxResults", PAGE)), PAGE)
        after = base64.b64decode(query["pageToken"]).decode() if "pageToken" in query else ""
        found = self.objects.listing(
            bucket,
            query.get("prefix", ""),
            query.get("delimiter", ""),
            after=after,
            start=query.get("startOffset", ""),
            end=query.get("endOffset", ""),
        )
        page = list(itertools.islice(found, size + 1))
        answer: dict[str, Any] = {"kind": "storage#objects"}
        if items := [self.shown(each) for each in page[:size] if isinstance(each, Blob)]:
            answer["items"] = items
        if prefixes := [each for each in page[:size] if isinstance(each, str)]:
            answer["prefixes"] = prefixes
        if len(page) > size:
            last = page[size - 1]
            token = last.name if isinstance(last, Blob) else last
            answer["nextPageToken"] = base64.b64encode(token.encode()).decode()
        return answer

    def _object(self, request: Request, bucket: str, name: str) -> Response:
        generation = int(request.query["generation"]) if "generation" in request.query else None
        demands = conditions(request.query)
        match request.method:
            case "GET":
                return self._read(request, bucket, name, generation, demands)
            case "DELETE":
                self.objects.delete(bucket, name, demands, generation)
                return Response(204)
            case "PATCH" | "PUT":
                with self.objects.lock:
                    blob = self.objects.get(bucket, name, demands, generation)
                    self._change(blob, request.json(), whole=request.method == "PUT")
                    return Response.of(self.shown(blob))
        raise StoreError(405, "MethodNotAllowed", "methodNotAllowed", "Method not allowed.")

    def _change(self, blob: Blob, body: dict[str, Any], *, whole: bool) -> None:
        if whole:
            blob.metadata = {}
        for key, value in (body.get("metadata") or {}).items():
            if value is None:
                blob.metadata.pop(key, None)
            else:
                blob.metadata[key] = value
        blob.content_type = body.get("contentType") or blob.content_type
        blob.metageneration += 1

    def _read(
        self, request: Request, bucket: str, name: str, generation: int | None, demands: Preconditions
    ) -> Response:
        try:
            blob = self.objects.get(bucket, name, demands, generation)
        except StoreError as failure:
            negative = demands.not_generation is not None or demands.not_metageneration is not None
            if failure.status == 412 and negative:
                return Response(304, code="notModified")
            raise
        if request.query.get("alt") != "media":
            return Response.of(self.shown(blob))
        status, data, headers = sliced(request, blob.data)
        more = {
            "Content-Type": blob.content_type,
            "ETag": base64.b64encode(f"{blob.generation}/{blob.metageneration}".encode()).decode(),
            "X-Goog-Generation": str(blob.generation),
            "X-Goog-Metageneration": str(blob.metageneration),
            "X-Goog-Hash": f"crc32c={blob.crc},md5={blob.md5}",
            "X-Goog-Storage-Class": blob.storage_class,
        }
        return Response(status, data, {**more, **headers})

    # Writing

    def upload(self, request: Request, bucket: str) -> Response:
        """`POST /upload/storage/v1/b/B/o`: in one request, or the begin of several."""
        match request.query.get("uploadType"):
            case "media":
                kind = request.headers.get("content-type", "application/octet-stream")
                return self._write(request.query, bucket, {}, kind, request.body)
            case "multipart":
                described, kind, data = _related(request)
                return self._write(request.query, bucket, described, kind, data)
            case "resumable":
                with self.objects.lock:
                    self.objects.bucket(bucket)
                    upload = f"upload-{next(self._numbers)}"
                    kind = request.headers.get("x-upload-content-type", "application/octet-stream")
                    self._uploads[upload] = ({**request.query, "bucket": bucket}, request.json(), kind, bytearray())
                where = f"{self.url}/upload/storage/v1/b/{quote(bucket)}/o?uploadType=resumable&upload_id={upload}"
                return Response(200, b"", {"Location": where, "X-GUploader-UploadID": upload})
        raise StoreError(400, "InvalidArgument", "invalid", "Upload type is not supported.")

    def resume(self, request: Request) -> Response:
        """`PUT` of a part of an upload; 308 says how far it is."""
        with self.objects.lock:
            query, described, kind, data = self._uploads.get(request.query.get("upload_id", ""), (None, None, "", None))
            if query is None or described is None or data is None:
                raise not_found("upload")
            match = re.fullmatch(
                r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers.get("content-range", "bytes */*")
            )
            if match is None:
                raise StoreError(400, "InvalidArgument", "invalid", "Invalid Content-Range.")
            if match[1] is not None:
                if int(match[1]) > len(data):
                    raise StoreError(503, "ServiceUnavailable", "backendError", "A part is missing.")
                data[int(match[1]) :] = request.body
            elif "content-range" not in request.headers:
                data[:] = request.body
            whole = match[3] != "*" and len(data) == int(match[3]) or "content-range" not in request.headers
            if not whole:
                headers = {"Range": f"bytes=0-{len(data) - 1}"} if data else {}
                return Response(308, b"", headers)
            answer = self._write(query, query["bucket"], described, kind, bytes(data))
            del self._uploads[request.query["upload_id"]]
            return answer

    def _write(self, query: dict[str, str], bucket: str, described: dict[str, Any], kind: str, data: bytes) -> Response:
        name = described.get("name") or query.get("name", "")
        blob = Blob(
            bucket, name, data, 0, described.get("contentType") or kind, dict(described.get("metadata") or {}), {}
        )
        blob.kms_key = query.get("kmsKeyName") or None
        if (wanted := described.get("md5Hash")) and wanted != blob.md5:
            raise StoreError(400, "BadDigest", "invalid", "Provided MD5 hash doesn't match calculated MD5 hash.")
        if (wanted := described.get("crc32c")) and wanted != blob.crc:
            raise StoreError(400, "BadDigest", "invalid", "Provided CRC32C doesn't match calculated CRC32C.")
        return Response.of(self.shown(self.objects.put(blob, conditions(query))))

    def _copy(self, request: Request, bucket: str, name: str, to: str, new: str, how: str) -> dict[str, Any]:
        with self.objects.lock:
            source = self.objects.get(bucket, name, conditions(request.query, "ifSource"))
            blob = Blob(to, new, source.data, 0, source.content_type, dict(source.metadata), dict(source.headers))
            shown = self.shown(self.objects.put(blob, conditions(request.query)))
        if how == "copyTo":
            return shown
        size = str(len(source.data))
        return {
            "kind": "storage#rewriteResponse",
            "done": True,
            "objectSize": size,
            "totalBytesRewritten": size,
            "resource": shown,
        }

    def _compose(self, request: Request, bucket: str, name: str) -> dict[str, Any]:
        body = request.json()
        with self.objects.lock:
            sources = [self.objects.get(bucket, each["name"]) for each in body["sourceObjects"]]
            data = b"".join(source.data for source in sources)
            kind = (body.get("destination") or {}).get("contentType", "application/octet-stream")
            return self.shown(self.objects.put(Blob(bucket, name, data, 0, kind, {}, {}), conditions(request.query)))

    # Batches

    def batch(self, request: Request, call: Any) -> Response:
        """Several requests in one: `multipart/mixed` of HTTP messages. `call` answers one of them."""
        answers = []
        for number, part in enumerate(_parts(request)):
            head, _, body = str(part.get_payload()).partition("\n\n")
            first, *lines = head.replace("\r", "").strip().split("\n")
            method, target, *_ = first.split(" ")
            headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            url = urlsplit(target)
            inner = Request(
                method, url.path, dict(parse_qsl(url.query, keep_blank_values=True)), headers, body.strip().encode()
            )
            answer: Response = call(inner)
            identity = str(part.get("Content-ID", number)).strip("<>")
            more = "".join(f"{key}: {value}\r\n" for key, value in answer.headers.items())
            answers.append(
                f"Content-Type: application/http\r\nContent-ID: <response-{identity}>\r\n\r\n"
                f"HTTP/1.1 {answer.status} Status\r\n{more}Content-Length: {len(answer.body)}\r\n\r\n{answer.body.decode()}"
            )
        text = "".join(f"--batch_answer\r\n{answer}\r\n" for answer in answers) + "--batch_answer--\r\n"
        return Response(200, text.encode(), {"Content-Type": "multipart/mixed; boundary=batch_answer"})


def _parts(request: Request) -> list[Any]:
    head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(head + request.body)
    if not message.is_multipart():
        raise StoreError(400, "InvalidArgument", "parseError", "Parse Error")
    return list(message.get_payload())


def _related(request: Request) -> tuple[dict[str, Any], str, bytes]:
    """The JSON and the data of a `multipart/related` body, cut by hand: the data may be any bytes."""
    match = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    if match is None:
        raise StoreError(400, "InvalidArgument", "parseError", "Parse Error")
    parts = request.body.split(b"--" + match[1].encode())
    if len(parts) < 4:
        raise StoreError(400, "InvalidArgument", "parseError", "Parse Error")
    described = parts[1].split(b"\r\n\r\n", 1)[1]
    boundary = b"--" + match[1].encode()
    # The data may hold what looks like a boundary: it ends at the last one.
    start = request.body.index(boundary, request.body.index(boundary) + 1)
    head, data = request.body[start:].split(b"\r\n\r\n", 1)
    data = data[: data.rindex(b"\r\n" + boundary)]
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", head)
    return json.loads(described), (kind[1].decode().strip() if kind else "application/octet-stream"), data


__all__ = ["Json", "conditions", "error", "sliced", "unquote"]
