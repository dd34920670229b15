"""The XML API of Cloud Storage, as S3's users and the `object_store` crate speak it:
https://cloud.google.com/storage/docs/xml-api/reference-methods."""

from __future__ import annotations

import base64
import email.utils
import itertools
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .gcs_json import sliced
from .gcs_objects import Blob, Objects, Preconditions, StoreError, not_found
from .httpd import Request, Response

PAGE = 1000
SPACE = "http://doc.s3.amazonaws.com/2006-03-01"


def error(failure: StoreError) -> Response:
    """The body of an error."""
    code, message = escape(failure.code), escape(failure.message)
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(failure.status, body.encode(), {"Content-Type": "application/xml; charset=UTF-8"}, failure.code)


def _conditions(request: Request, prefix: str = "x-goog-if-") -> Preconditions:
    def number(name: str) -> int | None:
        value = request.headers.get(f"{prefix}{name}")
        return None if value is None else int(value)

    return Preconditions(number("generation-match"), None, number("metageneration-match"), None)


def _headers(blob: Blob) -> dict[str, str]:
    stored = {f"x-goog-meta-{key}": value for key, value in blob.metadata.items()}
    return {
        **stored,
        **blob.headers,
        "Content-Type": blob.content_type,
        "ETag": f'"{blob.etag}"',
        "Last-Modified": email.utils.formatdate(blob.updated, usegmt=True),
        "x-goog-generation": str(blob.generation),
        "x-goog-metageneration": str(blob.metageneration),
        "x-goog-hash": f"crc32c={blob.crc},md5={blob.md5}",
        "x-goog-stored-content-length": str(len(blob.data)),
        "x-goog-storage-class": blob.storage_class,
        "Accept-Ranges": "bytes",
    }


class Xml:
    """The API."""

    def __init__(self, objects: Objects) -> None:
        """Of these objects."""
        self.objects = objects
        self._uploads: dict[str, tuple[Blob, dict[int, bytes]]] = {}
        self._numbers = itertools.count(1)

    def handle(self, request: Request, bucket: str, name: str) -> Response:
        """`name` is empty for a call about the bucket."""
        query = request.query
        match request.method:
            case "GET" | "HEAD" if not name:
                return self._list(request, bucket)
            case "GET" | "HEAD":
                return self._read(request, bucket, name)
            case "PUT" if "uploadId" in query:
                return self._part(request)
            case "PUT" if "x-goog-copy-source" in request.headers:
                return self._copy(request, bucket, name)
            case "PUT" if name:
                blob = self._blob(request, bucket, name, request.body)
                return Response(200, b"", _headers(self.objects.put(blob, _conditions(request))))
            case "POST" if "uploads" in query:
                return self._begin(request, bucket, name)
            case "POST" if "uploadId" in query:
                return self._complete(request)
            case "DELETE" if "uploadId" in query:
                with self.objects.lock:
                    if self._uploads.pop(query["uploadId"], None) is None:
                        raise StoreError(404, "NoSuchUpload", "notFound", "The specified upload does not exist.")
                return Response(204)
            case "DELETE" if name:
                self.objects.delete(bucket, name, _conditions(request))
                return Response(204)
        raise StoreError(405, "MethodNotAllowed", "methodNotAllowed", "Method not allowed.")

    def _blob(self, request: Request, bucket: str, name: str, data: bytes) -> Blob:
        headers = request.headers
        kept = ("cache-control", "content-disposition", "content-encoding", "content-language")
        prefix = "x-goog-meta-"
        metadata = {key.removeprefix(prefix): value for key, value in headers.items() if key.startswith(prefix)}
        kind = headers.get("content-type", "application/octet-stream")
        blob = Blob(bucket, name, data, 0, kind, metadata, {key: headers[key] for key in kept if key in headers})
        if (wanted := headers.get("content-md5")) and wanted != blob.md5:
            raise StoreError(
                400, "BadDigest", "invalid", "The Content-MD5 you specified did not match what we received."
            )
        return blob

    def _read(self, request: Request, bucket: str, name: str) -> Response:
        generation = int(request.query["generation"]) if "generation" in request.query else None
        blob = self.objects.get(bucket, name, None, generation)
        headers = _headers(blob)
        wanted, unwanted = (request.headers.get(key) for key in ("if-match", "if-none-match"))
        if wanted is not None and headers["ETag"] not in wanted and wanted != "*":
            raise StoreError(
                412, "PreconditionFailed", "conditionNotMet", "At least one of the pre-conditions did not hold."
            )
        if unwanted is not None and (headers["ETag"] in unwanted or unwanted == "*"):
            return Response(304, b"", headers, "NotModified")
        since = request.headers.get("if-modified-since")
        if since and int(blob.updated) <= email.utils.parsedate_to_datetime(since).timestamp():
            return Response(304, b"", headers, "NotModified")
        before = request.headers.get("if-unmodified-since")
        if before and int(blob.updated) > email.utils.parsedate_to_datetime(before).timestamp():
            raise StoreError(
                412, "PreconditionFailed", "conditionNotMet", "At least one of the pre-conditions did not hold."
            )
        if request.method == "HEAD":
            return Response(200, b"", {**headers, "Content-Length": str(len(blob.data))})
        status, data, more = sliced(request, blob.data)
        return Response(status, data, {**headers, **more})

    def _copy(self, request: Request, bucket: str, name: str) -> Response:
        source_bucket, _, source_name = unquote(request.headers["x-goog-copy-source"]).lstrip("/").partition("/")
        with self.objects.lock:
            source = self.objects.get(source_bucket, source_name)
            blob = Blob(bucket, name, source.data, 0, source.content_type, dict(source.metadata), dict(source.headers))
            made = self.objects.put(blob, _conditions(request))
        body = f"<CopyObjectResult xmlns='{SPACE}'><ETag>\"{made.etag}\"</ETag><LastModified>{made.updated_at}</LastModified></CopyObjectResult>"
        return Response(
            200, body.encode(), {"Content-Type": "application/xml", "x-goog-generation": str(made.generation)}
        )

    def _list(self, request: Request, bucket: str) -> Response:
        query = request.query
        size = min(int(query.get("max-keys", PAGE)), PAGE)
        after = query.get("start-after", "")
        if "continuation-token" in query:
            after = base64.b64decode(query["continuation-token"]).decode()
        found = self.objects.listing(bucket, query.get("prefix", ""), query.get("delimiter", ""), after=after)
        page = list(itertools.islice(found, size + 1))
        rows = []
        for each in page[:size]:
            if isinstance(each, str):
                rows.append(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>")
            else:
                rows.append(
                    f"<Contents><Key>{escape(each.name)}</Key><Generation>{each.generation}</Generation>"
                    f"<MetaGeneration>{each.metageneration}</MetaGeneration><LastModified>{each.updated_at}</LastModified>"
                    f'<ETag>"{each.etag}"</ETag><Size>{len(each.data)}</Size></Contents>'
                )
        cut = len(page) > size
        if cut:
            last = page[size - 1] if size else ""
            token = last.name if isinstance(last, Blob) else last
            rows.append(f"<NextContinuationToken>{base64.b64encode(token.encode()).decode()}</NextContinuationToken>")
        body = (
            f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='{SPACE}'><Name>{escape(bucket)}</Name>"
            f"<Prefix>{escape(query.get('prefix', ''))}</Prefix><KeyCount>{len(page[:size])}</KeyCount>"
            f"<IsTruncated>{str(cut).lower()}</IsTruncated>{''.join(rows)}</ListBucketResult>"
        )
        return Response(200, body.encode(), {"Content-Type": "application/xml; charset=UTF-8"})

    # Uploads in parts

    def _begin(self, request: Request, bucket: str, name: str) -> Response:
        with self.objects.lock:
            self.objects.bucket(bucket)
            upload = f"upload-{next(self._numbers)}"
            self._uploads[upload] = (self._blob(request, bucket, name, b""), {})
        body = (
            f"<?xml version='1.0' encoding='UTF-8'?><InitiateMultipartUploadResult xmlns='{SPACE}'><Bucket>{escape(bucket)}"
            f"</Bucket><Key>{escape(name)}</Key><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        )
        return Response(200, body.encode(), {"Content-Type": "application/xml"})

    def _upload(self, request: Request) -> tuple[Blob, dict[int, bytes]]:
        try:
            return self._uploads[request.query["uploadId"]]
        except KeyError:
            raise not_found("upload") from None

    def _part(self, request: Request) -> Response:
        number = int(request.query["partNumber"])
        with self.objects.lock:
            _, parts = self._upload(request)
            parts[number] = request.body
        return Response(200, b"", {"ETag": f'"{_digest(request.body)}"'})

    def _complete(self, request: Request) -> Response:
        wanted = []
        for part in ElementTree.fromstring(request.body).iter():
            if part.tag.rsplit("}", 1)[-1] == "Part":
                fields = {child.tag.rsplit("}", 1)[-1]: child.text or "" for child in part}
                wanted.append((int(fields["PartNumber"]), fields["ETag"].strip('"')))
        with self.objects.lock:
            blob, parts = self._upload(request)
            if wanted != sorted(wanted) or any(_digest(parts.get(number, b"")) != tag for number, tag in wanted):
                raise StoreError(
                    400, "InvalidPart", "invalid", "One or more of the specified parts could not be found."
                )
            if any(len(parts[number]) < 5 << 20 for number, _ in wanted[:-1]):
                raise StoreError(
                    400, "EntityTooSmall", "invalid", "Your proposed upload is smaller than the minimum allowed."
                )
            data = b"".join(parts[number] for number, _ in wanted)
            whole = Blob(blob.bucket, blob.name, data, 0, blob.content_type, blob.metadata, blob.headers)
            made = self.objects.put(whole, _conditions(request))
            del self._uploads[request.query["uploadId"]]
        body = (
            f"<?xml version='1.0' encoding='UTF-8'?><CompleteMultipartUploadResult xmlns='{SPACE}'><Bucket>{escape(made.bucket)}"
            f'</Bucket><Key>{escape(made.name)}</Key><ETag>"{made.etag}"</ETag></CompleteMultipartUploadResult>'
        )
        return Response(
            200, body.encode(), {"Content-Type": "application/xml", "x-goog-generation": str(made.generation)}
        )


def _digest(data: bytes) -> str:
    return Blob("", "", data, 0, "", {}, {}).etag
