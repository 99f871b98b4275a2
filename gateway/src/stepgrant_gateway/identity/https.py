"""One GET over HTTPS, within bounds: of size, of time however slowly the answer drips, and of place (no redirect)."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import timedelta
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from stepgrant_gateway.core.errors import FetchError

WITHIN: Final = timedelta(seconds=10)
"""For the connection to be taken, and then for handshake and answer together."""


def get(url: str, *, ca: Path | None, most: int) -> bytes:
    """The body of the answer 200, at most `most` bytes. Blocking. No proxy, no redirect, no cookie.

    `ca` is a PEM file of the authorities that the server's certificate must come from; None = those of the system.

    Raises:
        FetchError: there is none; the text names the URL and says why.
    """
    try:
        return _get(url, ca, most)
    except (OSError, HTTPException, ValueError) as error:
        raise FetchError(f"{url}: {str(error) or type(error).__name__}") from error


def _get(url: str, ca: Path | None, most: int) -> bytes:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("it is not an https URL without user and fragment")
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    connection = _Connection(parts.hostname, parts.port, context)
    try:
        connection.connect()
        connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            raise HTTPException(f"it answers {answer.status}, not 200; redirects are not followed")
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


class _Connection(HTTPSConnection):
    """A connection that is cut off when its time is up: the timeout of a socket begins anew with each byte."""

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext) -> None:
        self._tls = context
        super().__init__(host, port, timeout=WITHIN.total_seconds(), context=context)
        self._alarm: threading.Timer | None = None
        self.overdue = False

    def connect(self) -> None:
        """Connects, and verifies who is there."""
        plain = socket.create_connection((self.host, self.port), WITHIN.total_seconds())
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self._alarm = threading.Timer(WITHIN.total_seconds(), self._cut)
        self._alarm.daemon = True
        self._alarm.start()
        self.sock.do_handshake()

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
