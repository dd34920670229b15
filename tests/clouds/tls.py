"""A certificate authority of the set's own, for clients that insist on HTTPS.

Made with the `openssl` command. `root` is the directory of the set: the parent of a cloud's `Place.root`. Nothing of it
outlives the set, and nothing should ever trust it but a test.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

from .disks import run

_LOCK = threading.Lock()


def authority(root: Path) -> Path:
    """The certificate of the authority of the set below `root`, which clients have to trust."""
    certificate, key = root / "ca.crt", root / "ca.key"
    with _LOCK:
        if not certificate.exists():
            run(
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=Authority of the test clouds", "-keyout", key, "-out", certificate),
                # Without these, strict verifiers (Python 3.13, rustls) refuse the authority.
                *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            )
    return certificate


def server(root: Path, name: str, hosts: Sequence[str]) -> ssl.SSLContext:
    """What a server needs that answers to these host names and IPv4 addresses."""
    ca = authority(root)
    key, request, certificate, extensions = (root / f"{name}.{end}" for end in ("key", "csr", "crt", "ext"))
    alternatives = [f"IP:{host}" if host.replace(".", "").isdigit() else f"DNS:{host}" for host in hosts]
    extensions.write_text(
        f"subjectAltName={','.join(alternatives)}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n"
    )
    run(
        *("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", f"/CN={hosts[0]}", "-keyout", key, "-out", request),
    )
    run(
        *("openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", root / "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", extensions, "-out", certificate),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
