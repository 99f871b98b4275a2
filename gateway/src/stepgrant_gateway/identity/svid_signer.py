"""Signs with the gateway's SVID: announced keys and checkpoints."""

from __future__ import annotations

from stepgrant.spiffe.signatures import sign_with_key
from stepgrant.spiffe.source import IdentitySource


class SourceSvidSigner:
    """`core.ports.SvidSigner` with whichever SVID the source has at the moment of signing."""

    def __init__(self, source: IdentitySource) -> None:
        self._source = source

    def sign(self, message: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        """Signature and chain (leaf first, DER), of one and the same SVID.

        Raises:
            IdentityUnavailableError: there is no valid SVID now.
        """
        snapshot = self._source.current()
        return sign_with_key(snapshot.private_key_pem, message), snapshot.chain_der
