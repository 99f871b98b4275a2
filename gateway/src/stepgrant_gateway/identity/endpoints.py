"""Fetches the bundle of a foreign trust domain from its bundle endpoint (SPIFFE Federation, sections 5.1 and 5.2).

The steps of `fetch_bundle` carry their numbers:

1. a TLS connection, version 1.2 or newer
2. `https_web`: the certificate is for the URL's host, by an authority of the system or of the configured file (section 5.2.1.4)
3. `https_spiffe`: it is the X.509-SVID of the configured ID, by the bundle of that ID's own trust domain and nothing of
   the Web PKI (section 5.2.2.4); until then no byte of a request is sent
4. one GET, whose answer is 200: a redirect is refused, though the specification lets clients follow it
5. a body within bounds
"""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES, BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.probe import unverified_chain
from stepgrant.spiffe.x509 import verify_x509_svid
from stepgrant_gateway.core.errors import BundleUnavailableError

WITHIN: Final = timedelta(seconds=10)
"""For each address to take the connection, and then for handshake and answer together, however slowly they drip."""


class Profile(Enum):
    """How an endpoint proves who it is."""

    WEB = "https_web"
    SPIFFE = "https_spiffe"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the bundle of `trust_domain` is had from. `url` is https, without userinfo and fragment.

    `endpoint_id` is the server's SPIFFE ID, with `https_spiffe` only; `ca` a PEM file in place of the system's authorities,
    with `https_web` only.
    """

    trust_domain: str
    url: str
    profile: Profile
    endpoint_id: SpiffeId | None = None
    ca: Path | None = None


def fetch_bundle(endpoint: Endpoint, bundles: BundleSet, now: datetime) -> bytes:
    """The bundle document that the endpoint serves, as it came. Blocking, within bounds. `bundles` are those held now.

    Raises:
        BundleUnavailableError: there is none to be had, or not from who it must be; the text says why.
    """
    try:
        return _fetch(endpoint, bundles, now)
    except (OSError, HTTPException, InvalidSvidError) as error:
        raise BundleUnavailableError(
            f"{endpoint.url} gives no bundle of {endpoint.trust_domain}: {str(error) or type(error).__name__}"
        ) from error


def _fetch(endpoint: Endpoint, bundles: BundleSet, now: datetime) -> bytes:
    url = urlsplit(endpoint.url)
    connection = _Connection(url.hostname or "", url.port, endpoint, bundles, now)
    try:
        # 1., 2., 3.
        connection.connect()
        # 4.
        connection.request("GET", f"{url.path or '/'}{'?' if url.query else ''}{url.query}")
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            raise HTTPException(_refusal(answer))
        # 5.
        body = answer.read(MAX_BUNDLE_BYTES + 1)
    except (OSError, HTTPException):
        # An answer that was cut off need not be an error: http.client takes the end of a connection for the end of headers.
        if not connection.overdue:
            raise
    finally:
        connection.close()
    if connection.overdue:
        raise TimeoutError(f"it did not answer within {WITHIN.total_seconds():.0f} s")
    if len(body) > MAX_BUNDLE_BYTES:
        raise HTTPException(f"it answers more than {MAX_BUNDLE_BYTES} bytes")
    return body


def _refusal(answer: HTTPResponse) -> str:
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        return f"it answers {answer.status}, a redirect; none is followed: configure the URL that it names, if that is right"
    return f"it answers {answer.status}"


class _Connection(HTTPSConnection):
    """A connection to the endpoint that is ours once `connect` returns, and that is cut off when its time is up."""

    def __init__(self, host: str, port: int | None, endpoint: Endpoint, bundles: BundleSet, now: datetime) -> None:
        self._context_of_profile = _context(endpoint)
        super().__init__(host, port, timeout=WITHIN.total_seconds(), context=self._context_of_profile)
        self._endpoint = endpoint
        self._bundles = bundles
        self._now = now
        self._alarm: threading.Timer | None = None
        self.overdue = False

    def connect(self) -> None:
        """Connects, and knows who is there. Raises OSError or InvalidSvidError."""
        plain = socket.create_connection((self.host, self.port), WITHIN.total_seconds())
        tls = self._context_of_profile.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = tls
        self._alarm = threading.Timer(WITHIN.total_seconds(), self._cut)
        self._alarm.daemon = True
        self._alarm.start()
        tls.do_handshake()
        if self._endpoint.profile is Profile.SPIFFE:
            self._require_svid(unverified_chain(tls))

    def close(self) -> None:
        """Ends it; harmless twice."""
        if self._alarm is not None:
            self._alarm.cancel()
        super().close()

    def _require_svid(self, chain: tuple[bytes, ...]) -> None:
        if not chain:
            raise InvalidSvidError("it shows no certificate")
        svid = verify_x509_svid(chain[0], chain[1:], self._bundles, self._now)
        if svid.spiffe_id != self._endpoint.endpoint_id:
            raise InvalidSvidError(f"it is {svid.spiffe_id}, not {self._endpoint.endpoint_id}")

    def _cut(self) -> None:
        """Ends the connection under whoever waits for it: timeouts of a socket begin anew with each byte."""
        self.overdue = True
        try:
            # Not SSLSocket's own, which takes the TLS state away from the thread that uses it.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            return


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    if endpoint.profile is Profile.WEB:
        context = ssl.create_default_context(cafile=None if endpoint.ca is None else str(endpoint.ca))
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The handshake proves possession of the leaf's key; who that is, `verify_x509_svid` says.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
