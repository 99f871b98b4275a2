"""A small HTTP listener on threads of its own, so that it answers also while the gateway's loop is busy or stuck."""

from __future__ import annotations

import errno
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import MappingProxyType
from typing import Any, Final

from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.settings import Address

MAX_CONNECTIONS: Final = 16
"""Connections served at once; one more is closed at once. A collector and a probe need one each."""
PATIENCE: Final = 5.0
"""Seconds that a client may take to send its request or to read the answer."""
BREATH: Final = 0.1
"""Seconds until the next try to accept when the process has no file descriptor left: without it the thread would spin."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    status: HTTPStatus
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]
"""By path. Called on the listener's threads."""
Posts = Mapping[str, Callable[[bytes], Page]]
"""By path, what takes the body of a form. Called on the listener's threads."""
MAX_BODY: Final = 16 * 1024
FORM: Final = "application/x-www-form-urlencoded"


class Listener:
    """Serves pages to GET, and forms to POST, until it is closed. Nothing that a client sends is looked at but path and form."""

    def __init__(
        self, address: Address, pages: Pages, *, posts: Posts = MappingProxyType({}), name: str = "metrics"
    ) -> None:
        """Listens at once. `name` is that of the section of gateway.toml, and of the thread.

        Raises:
            ConfigError: nothing can listen at `address`.
        """
        try:
            self._server = _Server(address, pages, posts)
        except OSError as error:
            raise ConfigError(f"{name}.address: nothing can listen at {address}: {error.strerror}") from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listens no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: Address, pages: Pages, posts: Posts) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.pages, self.posts = pages, posts
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        # The base's asks the DNS for a name of the address, which nobody needs and which may take half a minute.
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                time.sleep(BREATH)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread is to be had; the base closes the connection
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # A socket's own timeout begins anew with each byte: who sends one now and then would have the place for days.
        late = threading.Timer(PATIENCE, _hang_up, (request,))
        late.daemon = True
        try:
            late.start()
            super().process_request_thread(request, client_address)
        finally:
            late.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's signature
        # A client that hangs up is no news; what it had sent is nobody's business.
        logger.debug("A request for metrics or health was not served.")


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):  # it has hung up itself
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server: _Server

    def do_GET(self) -> None:
        """The page of the path, whatever its query."""
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer(_plain(HTTPStatus.NOT_FOUND, b"not found\n"))
            return
        self._answer(page())

    def do_POST(self) -> None:
        """What the form of that path comes to. A body has a length, which is bounded, and is a form."""
        take, length = self.server.posts.get(self.path.partition("?")[0]), self.headers.get("Content-Length", "")
        if take is None:
            self._answer(_plain(HTTPStatus.NOT_FOUND))
        elif self.headers.get_content_type() != FORM or "Transfer-Encoding" in self.headers:
            self._answer(_plain(HTTPStatus.UNSUPPORTED_MEDIA_TYPE))
        elif re.fullmatch("[0-9]{1,8}", length) is None or int(length) > MAX_BODY:
            self._answer(_plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        else:
            self._answer(take(self.rfile.read(int(length))))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - the base's signature
        """A status without words: the base's page repeats what the client sent."""
        self._answer(_plain(HTTPStatus(code)))

    def version_string(self) -> str:
        """Nothing about what serves."""
        return "stepgrant"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nothing: each scrape would be a line, and a path may be anything."""

    def _answer(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(page.body)


def _plain(status: HTTPStatus, body: bytes = b"") -> Page:
    return Page(status, "text/plain; charset=utf-8", body)
