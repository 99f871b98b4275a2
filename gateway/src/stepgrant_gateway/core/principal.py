"""Who is on a connection, and on whose behalf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from stepgrant.intent import Json
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.subject import SubjectId

METHOD_X509: Final = "x509"
"""By an X.509-SVID, in the TLS handshake."""
METHOD_JWT: Final = "jwt"
"""By a JWT-SVID, on the listener for bearer tokens."""
METHOD_OIDC: Final = "oidc"
"""By a token of an OIDC issuer, on the listener for bearer tokens."""
METHODS: Final = (METHOD_X509, METHOD_JWT, METHOD_OIDC)


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


@dataclass(frozen=True, slots=True)
class Subject:
    """The user on whose behalf a task runs, as the OIDC token proved that was shown when it was opened, or taken up.

    The token itself is not kept. `claims` are all of its claims: which of them policy sees, the catalog of now says.
    `signed_by` names the issuer's key that signed it: 32 bytes, the SHA-256 of the key.
    """

    id: SubjectId
    expires_at: datetime
    claims: Mapping[str, Json] = field(repr=False)
    signed_by: bytes
