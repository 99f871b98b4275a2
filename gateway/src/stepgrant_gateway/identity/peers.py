"""Who is on a connection: TLS has checked little, so everything is verified here (design 6; facts: grpcio and SPIFFE)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from stepgrant.errors import IdentityUnavailableError, InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.x509 import MAX_CHAIN_BYTES, VerifiedSvid, chain_from_pem, verify_x509_svid
from stepgrant_gateway.core.principal import METHOD_X509, Peer
from stepgrant_gateway.identity.successes import MAX_CACHED, Successes

_LEAF: Final = "x509_pem_cert"
_CHAIN: Final = "x509_pem_cert_chain"


@dataclass(frozen=True, slots=True)
class _Success:
    svid: VerifiedSvid
    peer: Peer


class PeerVerifier:
    """Turns what TLS knows of a connection into a verified `Peer`.

    `bundles` gives the bundles as they are now, `now` the aware wall clock. Successes are remembered by leaf, intermediates,
    trust domain and bundle revision, until the first certificate of the path expires; failures never. For one event loop.
    """

    def __init__(
        self, bundles: Callable[[], BundleSet], now: Callable[[], datetime], *, max_cached: int = MAX_CACHED
    ) -> None:
        self._bundles = bundles
        self._now = now
        self._successes: Successes[_Success] = Successes(max_cached)

    def verify(self, evidence: Mapping[str, Iterable[bytes]], metadata: Iterable[tuple[str, str | bytes]] = ()) -> Peer:
        """The peer that `evidence` (gRPC's `auth_context()`) proves. Nothing in `metadata` names anybody.

        Raises:
            InvalidSvidError: nobody is proven, or a second identity is claimed by `authorization` (design 3).
        """
        if any(key.lower() == "authorization" for key, _ in metadata):
            raise InvalidSvidError(
                "`authorization` metadata is refused here: the client certificate alone says who calls"
            )
        leaf, chain = _one(evidence, _LEAF), _one(evidence, _CHAIN)
        if not leaf:
            raise InvalidSvidError("the connection has no client certificate: connect with an X.509-SVID")
        if len(leaf) + len(chain) > MAX_CHAIN_BYTES:
            raise InvalidSvidError(f"the client's certificates take more than {MAX_CHAIN_BYTES} bytes")
        try:
            bundles = self._bundles()
        except IdentityUnavailableError as error:
            raise InvalidSvidError(f"there are no bundles to judge the client by: {error}") from error
        now = self._now()
        shown = len(leaf).to_bytes(8, "big") + leaf + chain
        known = self._successes.get(shown, lambda success: _still_good(success.svid, bundles, now))
        if known is not None:
            return known.peer
        svid = verify_x509_svid(*_certificates(leaf, chain), bundles, now)
        peer = Peer(svid.spiffe_id, METHOD_X509, svid.not_after, svid.leaf_sha256)
        self._successes.put(shown, _Success(svid, peer))
        return peer

    def recheck(self, peer: Peer, evidence: Mapping[str, Iterable[bytes]]) -> None:
        """Returns if `evidence` proves `peer` still: for open streams, after each bundle change.

        Raises:
            InvalidSvidError: it does not; the stream must end.
        """
        if self.verify(evidence) != peer:
            raise InvalidSvidError(f"the connection no longer proves {peer.spiffe_id}")


def _still_good(svid: VerifiedSvid, bundles: BundleSet, now: datetime) -> bool:
    bundle = bundles.get(svid.spiffe_id.trust_domain)
    unchanged = bundle is not None and bundle.revision == svid.bundle_revision
    return unchanged and svid.not_before <= now <= svid.not_after


def _one(evidence: Mapping[str, Iterable[bytes]], name: str) -> bytes:
    values = list(evidence.get(name) or ())
    if len(values) > 1:
        raise InvalidSvidError(f"the connection has {len(values)} values of {name}")
    return values[0] if values else b""


def _certificates(leaf_pem: bytes, chain_pem: bytes) -> tuple[bytes, Sequence[bytes]]:
    leaves = chain_from_pem(leaf_pem)
    if len(leaves) != 1:
        raise InvalidSvidError("the connection has more than one client certificate as its leaf")
    chain = chain_from_pem(chain_pem) if chain_pem else ()
    # gRPC servers hand over the chain without its leaf; with it, as on the client side, it means the same.
    return leaves[0], chain[1:] if chain[:1] == leaves else chain
