"""What a protected gRPC server shows, kept fresh: new connections get the newest SVID and bundle."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource
from stepgrant.spiffe.transport import transport_roots

_log = logging.getLogger(__name__)


def server_credentials(identity: IdentitySource) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate of a trust domain that is known, and renew themselves from `identity`.

    gRPC keeps its former certificate when none can be had. That fails open in TLS only: the interceptor verifies each
    call's certificate against the bundles of now, and refuses while there are none.

    Raises:
        IdentityUnavailableError: there is no SVID to begin with.
    """
    shown = identity.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        try:
            snapshot = identity.current()
            if snapshot == shown:
                return None
            configuration = _configuration(snapshot)
        except Exception as error:  # noqa: BLE001 - an exception here is lost in gRPC's core, where nobody hears of it
            _log.warning("The server keeps its former certificate: %s", error)
            return None
        shown = snapshot
        return configuration

    fetcher: Any = fetch  # the stubs do not know that it may return None
    return grpc.dynamic_ssl_server_credentials(_configuration(shown), fetcher, require_client_authentication=True)


def _configuration(snapshot: IdentitySnapshot) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(snapshot.private_key_pem, snapshot.chain_pem)], transport_roots(snapshot)
    )
