"""Who is on a connection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from stepgrant.spiffe.ids import SpiffeId

METHOD_X509: Final = "x509"
"""By an X.509-SVID, in the TLS handshake."""
METHOD_JWT: Final = "jwt"
"""By a JWT-SVID, on the listener for bearer tokens."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified workload.

    `method` says how it was proven, and is `context.peer.method` in policy; `credential_sha256` is 32 bytes over what it was
    proven by: the DER of the leaf, or the characters of the token.
    """

    spiffe_id: SpiffeId
    method: str
    not_after: datetime
    credential_sha256: bytes

    @property
    def has_certificate(self) -> bool:
        """Whether grants can be bound to a certificate that it shows."""
        return self.method == METHOD_X509
