"""What the gateway shows on its listeners, kept fresh: new connections get the newest SVID and bundle."""

from __future__ import annotations

import logging
import threading
from typing import Any

import grpc

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource
from stepgrant.spiffe.transport import transport_roots

_log = logging.getLogger(__name__)


class ServerIdentity:
    """The gateway's own identity on one listener.

    gRPC keeps the former certificate and roots when it is given no new ones: it fails open. So `stale` says when that is
    so, and the interceptor refuses by it.
    """

    def __init__(self, source: IdentitySource, *, client_certificates: bool = True) -> None:
        """`client_certificates`: whether clients must show one. It is not asked for where a token says who calls."""
        self._source = source
        self._client_certificates = client_certificates
        self._lock = threading.Lock()
        self._shown: IdentitySnapshot | None = None
        self._failure: str | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that renew themselves, and demand a client certificate of a trust domain that is known, or none.

        Raises:
            IdentityUnavailableError: there is no SVID to begin with.
        """
        snapshot = self._source.current()
        self._shown = snapshot
        # The stubs do not know that the fetcher may return None.
        fetch: Any = self._fetch
        return grpc.dynamic_ssl_server_credentials(
            _configuration(snapshot), fetch, require_client_authentication=self._client_certificates
        )

    def stale(self) -> str | None:
        """Why the gateway's own identity or bundle cannot be relied on now, or None."""
        try:
            self._source.current()
        except IdentityUnavailableError as error:
            return str(error)
        return self._failure

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration for a new connection, None = as before. Called on a thread of gRPC's core."""
        try:
            snapshot = self._source.current()
            with self._lock:
                if snapshot == self._shown:
                    self._failure = None
                    return None
                configuration = _configuration(snapshot)
                self._shown, self._failure = snapshot, None
        except Exception as error:  # noqa: BLE001 - an exception here is lost in gRPC's core, where nobody hears of it
            self._failure = f"the listener keeps its former certificate: {error}"
            _log.error("%s", self._failure, extra={"event": "svid_not_shown"})
            return None
        _log.info(
            "The listener shows the SVID of %s, valid until %s", snapshot.spiffe_id, snapshot.not_after,
            extra={"event": "svid_rotated"},
        )  # fmt: skip
        return configuration


def _configuration(snapshot: IdentitySnapshot) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(snapshot.private_key_pem, snapshot.chain_pem)], transport_roots(snapshot)
    )
