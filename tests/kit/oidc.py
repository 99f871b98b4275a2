"""A small OIDC issuer on loopback: HTTPS by a CA of its own, a discovery document, keys that can change, tokens."""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from tests.kit.ca import TestAuthority
from tests.kit.foreign import ForeignSigner

AUDIENCE = "stepgrant"
WEB = TestAuthority("web")


class Issuer:
    """Signs tokens and says by which keys. `pages` are what its server answers, by path; a test may put anything there."""

    def __init__(self, url: str = "https://login.acme.test", algorithm: str = "RS256") -> None:
        self.url = url
        self.signer = ForeignSigner.of(algorithm)
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.publish()

    def publish(self, *more: ForeignSigner, document: dict[str, Any] | None = None) -> None:
        """Shows the key that it signs with, and more; `document` changes its discovery document."""
        keys = [signer.jwk(use="sig", alg=signer.algorithm) for signer in (self.signer, *more)]
        self.pages["/jwks"] = (200, json.dumps({"keys": keys}).encode())
        said = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **(document or {})}
        self.pages["/.well-known/openid-configuration"] = (200, json.dumps(said).encode())

    @property
    def jwks(self) -> bytes:
        return self.pages["/jwks"][1]

    def claims(
        self, now: datetime, sub: str = "u-17", lives: timedelta = timedelta(minutes=10), **more: Any
    ) -> dict[str, Any]:
        """The claims of a good token; one that is None is left out."""
        at = int(now.timestamp())
        claims = {
            "iss": self.url,
            "sub": sub,
            "aud": AUDIENCE,
            "iat": at,
            "exp": at + int(lives.total_seconds()),
            **more,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, now: datetime, sub: str = "u-17", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token with these claims, good if they do not say otherwise."""
        return self.signer.sign(self.claims(now, sub, **claims), **(header or {}))


def authority_file(folder: Path) -> Path:
    """The PEM of the CA that issuers' servers have their certificates from."""
    path = folder / "web.pem"
    path.write_bytes(WEB.root.public_bytes(Encoding.PEM))
    return path


@contextmanager
def serving(issuer: Issuer) -> Iterator[Issuer]:
    """The issuer at https://localhost:PORT, for as long as it is entered."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            status, body = issuer.pages.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if status == 302:
                self.send_header("location", body.decode())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base's name
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that do not like what they see go away."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown = WEB.issue("x", dns=["localhost"])
    with tempfile.NamedTemporaryFile() as chain:
        chain.write(shown.chain_pem + shown.key_pem)
        chain.flush()
        context.load_cert_chain(chain.name)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    issuer.url = f"https://localhost:{server.server_address[1]}"
    issuer.publish()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def logout_claims(issuer: Issuer, now: datetime, **changes: Any) -> dict[str, Any]:
    """The claims of a good logout token; one that is None is left out."""
    at = int(now.timestamp())
    events = {"http://schemas.openid.net/event/backchannel-logout": {}}
    good = {
        "iss": issuer.url,
        "aud": AUDIENCE,
        "iat": at,
        "exp": at + 120,
        "jti": "j-1",
        "sub": "u-17",
        "events": events,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}
