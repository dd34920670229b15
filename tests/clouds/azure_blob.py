"""Azurite, the server for blobs that Microsoft makes for tests, with one empty container."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

from .httpd import listens, wait_until

ACCOUNT = "devstoreaccount1"
# It is printed in the manual of Azurite.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "backups"
VERSION = "2021-12-02"


def program() -> Path | None:
    """Azurite, where `tools/setup.sh test` puts it."""
    tools = os.environ.get("BARMAN_SNAP_TOOLS") or Path(__file__).resolve().parents[2] / ".tools"
    script = Path(tools) / "azurite/node_modules/azurite/dist/src/blob/main.js"
    return script if script.exists() and shutil.which("node") else None


class Azurite:
    """A running server."""

    def __init__(self, script: Path, directory: Path) -> None:
        """Starts it, and makes the container."""
        directory.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(directory)]
        command = ["node", str(script), *options, "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: listens("127.0.0.1", self.port), 60, "Azurite")
            self._make_container()
        except BaseException:
            self.close()
            raise

    @classmethod
    def start(cls, directory: Path) -> Azurite | None:
        """Starts it, if it is installed."""
        script = program()
        return cls(script, directory) if script else None

    @property
    def url(self) -> str:
        """The account."""
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """What clients need to find it and to sign."""
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.url};"

    def _make_container(self) -> None:
        """Signed with the shared key.

        https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        date = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = f"x-ms-date:{date}\nx-ms-version:{VERSION}\n"
        text = "PUT" + "\n" * 12 + headers + f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        request = urllib.request.Request(
            f"{self.url}/{CONTAINER}?restype=container",
            method="PUT",
            headers={
                "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
                "Content-Length": "0",
                "x-ms-date": date,
                "x-ms-version": VERSION,
            },
        )
        with urllib.request.urlopen(request, timeout=30):
            pass

    def close(self) -> None:
        """Stops it."""
        self._process.kill()
        self._process.wait()


def main() -> int:
    """Runs it in a directory until the standard input ends; prints where it is, as JSON."""
    server = Azurite.start(Path(sys.argv[1]) / "azurite")
    if server is None:
        print("Azurite is not installed; run tools/setup.sh test", file=sys.stderr)
        return 1
    try:
        print(json.dumps({"url": server.url, "connection_string": server.connection_string}), flush=True)
        while sys.stdin.buffer.read(1):
            pass
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
