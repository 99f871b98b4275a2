"""Who is on a TLS connection: gRPC has checked little, so its certificates are verified here as an X.509-SVID (design 6)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from stepgrant.clock import Clock
from stepgrant.errors import GrantRefusedError, IdentityUnavailableError, InvalidSvidError, RefusalCode
from stepgrant.spiffe.source import IdentitySource
from stepgrant.spiffe.x509 import MAX_CHAIN_BYTES, VerifiedSvid, chain_from_pem, verify_x509_svid
from stepgrant.verify.verifier import TlsHolder

MAX_CACHED: Final = 4096
"""Successes remembered, about 3 KiB each."""

_NEXT: Final = "Connect with the X.509-SVID that the task was opened with."


class TlsPeers:
    """Verifies peers against the bundles of now. Successes are remembered by certificates and bundle revision, failures never."""

    def __init__(self, identity: IdentitySource, clock: Clock) -> None:
        self._identity = identity
        self._clock = clock
        self._known: OrderedDict[bytes, VerifiedSvid] = OrderedDict()

    def holder(self, evidence: Mapping[str, Iterable[bytes]]) -> TlsHolder:
        """The holder that `evidence`, gRPC's `auth_context()`, proves.

        Raises:
            GrantRefusedError: `holder`: nobody is proven.
        """
        leaf, chain = _one(evidence, "x509_pem_cert"), _one(evidence, "x509_pem_cert_chain")
        if not leaf:
            raise GrantRefusedError(RefusalCode.HOLDER, "the connection has no client certificate.", _NEXT)
        if len(leaf) + len(chain) > MAX_CHAIN_BYTES:
            raise GrantRefusedError(RefusalCode.HOLDER, "the client's certificates are too large.", _NEXT)
        try:
            svid = self._verified(leaf, chain)
        except (InvalidSvidError, IdentityUnavailableError) as error:
            raise GrantRefusedError(
                RefusalCode.HOLDER, f"the client's certificate is no SVID that counts here: {error}.", _NEXT
            ) from error
        return TlsHolder(svid.spiffe_id, svid.leaf_sha256)

    def _verified(self, leaf_pem: bytes, chain_pem: bytes) -> VerifiedSvid:
        bundles, now = self._identity.current().bundles, self._clock.now()
        key = hashlib.sha256(len(leaf_pem).to_bytes(8, "big") + leaf_pem + chain_pem).digest()
        known = self._known.get(key)
        if known is not None:
            bundle = bundles.get(known.spiffe_id.trust_domain)
            same = bundle is not None and bundle.revision == known.bundle_revision
            if same and known.not_before <= now <= known.not_after:
                self._known.move_to_end(key)
                return known
            del self._known[key]
        leaves, chain = chain_from_pem(leaf_pem), chain_from_pem(chain_pem) if chain_pem else ()
        if len(leaves) != 1:
            raise InvalidSvidError("the connection has more than one leaf")
        svid = verify_x509_svid(leaves[0], chain[1:] if chain[:1] == leaves else chain, bundles, now)
        self._known[key] = svid
        if len(self._known) > MAX_CACHED:
            self._known.popitem(last=False)
        return svid


def _one(evidence: Mapping[str, Iterable[bytes]], name: str) -> bytes:
    values = list(evidence.get(name) or ())
    if len(values) > 1:
        raise GrantRefusedError(RefusalCode.HOLDER, f"the connection has {len(values)} values of {name}.", _NEXT)
    return values[0] if values else b""
