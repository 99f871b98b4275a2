"""One GET over HTTPS, within bounds: of size, of time however slowly the answer drips, and of place (no redirect)."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from stepgrant_gateway.core.errors import FetchError

WITHIN: Final = timedelta(seconds=10)
"""For each address to take the connection, and then for handshake and answer together."""

Recognise = Callable[[ssl.SSLSocket], None]
"""Returns if it is the right one who is there after the handshake; raises otherwise, and nothing is asked of it."""


def get(url: str, *, ca: Path | None, most: int) -> bytes:
    """The body of the answer 200 of a server that the Web PKI, or `ca`, knows: at most `most` bytes. Blocking.

    `ca` is a PEM file of the authorities that the server's certificate must come from; None = those of the system.

    Raises:
        FetchError: there is none; the text names the URL and says why.
    """
    try:
        return ask(url, web_context(ca), most)
    except (OSError, HTTPException, ValueError) as error:
        raise FetchError(f"{url}: {str(error) or type(error).__name__}") from error


def web_context(ca: Path | None) -> ssl.SSLContext:
    """TLS that takes who has a certificate for the name in the URL, by an authority of `ca` or of the system."""
    return _modern(ssl.create_default_context(cafile=None if ca is None else str(ca)))


def blind_context() -> ssl.SSLContext:
    """TLS that takes anybody: the handshake proves possession of the leaf's key, and who that is, `recognise` must say."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _modern(context)


def ask(url: str, context: ssl.SSLContext, most: int, recognise: Recognise | None = None) -> bytes:
    """The body of the answer 200, at most `most` bytes. Blocking. No proxy, no redirect, no cookie.

    Raises:
        OSError, HTTPException, ValueError: there is none. What `recognise` raises comes as it is.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("it is not an https URL without user and fragment")
    connection = _Connection(parts.hostname, parts.port, context, recognise)
    try:
        connection.connect()
        connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            raise HTTPException(_refusal(answer))
        body = answer.read(most + 1)
    except (OSError, HTTPException):
        # An answer that was cut off need not be an error: http.client takes the end of a connection for the end of headers.
        if not connection.overdue:
            raise
        body = b""
    finally:
        connection.close()
    if connection.overdue:
        raise TimeoutError(f"it did not answer within {WITHIN.total_seconds():.0f} s")
    if len(body) > most:
        raise HTTPException(f"it answers more than {most} bytes")
    return body


def _modern(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _refusal(answer: HTTPResponse) -> str:
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        return f"it answers {answer.status}, a redirect; none is followed: configure the URL that it names, if that is right"
    return f"it answers {answer.status}"


class _Connection(HTTPSConnection):
    """A connection that is cut off when its time is up: the timeout of a socket begins anew with each byte."""

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext, recognise: Recognise | None) -> None:
        self._tls = context
        super().__init__(host, port, timeout=WITHIN.total_seconds(), context=context)
        self._recognise = recognise
        self._alarm: threading.Timer | None = None
        self.overdue = False

    def connect(self) -> None:
        """Connects, and knows who is there."""
        plain = socket.create_connection((self.host, self.port), WITHIN.total_seconds())
        tls = self._tls.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = tls
        self._alarm = threading.Timer(WITHIN.total_seconds(), self._cut)
        self._alarm.daemon = True
        self._alarm.start()
        tls.do_handshake()
        if self._recognise is not None:
            self._recognise(tls)

    def close(self) -> None:
        """Ends it; harmless twice."""
        if self._alarm is not None:
            self._alarm.cancel()
        super().close()

    def _cut(self) -> None:
        self.overdue = True
        try:
            # Not SSLSocket's own, which takes the TLS state away from the thread that uses it.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            return
