"""Bundle documents, and a server of them on loopback that says what the test puts in."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stepgrant.spiffe.bundles import X509Bundle
from tests.kit.ca import IssuedSvid
from tests.kit.foreign import ForeignSigner


def bundle_document(
    *bundles: X509Bundle, jwt: Sequence[ForeignSigner] = (), sequence: int | None = 1, hint: int | None = None
) -> bytes:
    """The SPIFFE bundle document of these authorities."""
    keys: list[dict[str, Any]] = [
        {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(der).decode()]}
        for bundle in bundles
        for der in bundle.authorities
    ]
    keys += [signer.jwk(use="jwt-svid") for signer in jwt]
    document: dict[str, Any] = {"keys": keys}
    if sequence is not None:
        document["spiffe_sequence"] = sequence
    if hint is not None:
        document["spiffe_refresh_hint"] = hint
    return json.dumps(document).encode()


@dataclass(slots=True)
class Served:
    """What an endpoint says, and what it was asked. `drips` is sent byte by byte, without an end, in place of an answer."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drips: bytes = b""
    asked: list[str] = field(default_factory=list)
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/bundle.json"


@contextmanager
def endpoint(shown: IssuedSvid, served: Served) -> Iterator[Served]:
    """A bundle endpoint that shows these certificates."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            for byte in served.drips:
                self.wfile.write(bytes((byte,)))
                if served.over.wait(0.02):
                    return
            self.send_response(served.status)
            for name, value in {"content-length": str(len(served.body)), **served.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(served.body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as above
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that do not like what they see go away."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as chain:
        chain.write(shown.chain_pem + shown.key_pem)
        chain.flush()
        context.load_cert_chain(chain.name)
    server = Server(("127.0.0.1", 0), Handler, bind_and_activate=True)
    # The handshake in the handler's own thread: who does not like the certificate must not stop the server.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    served.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
