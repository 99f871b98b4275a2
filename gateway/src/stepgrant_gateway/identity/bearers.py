"""Who a bearer token stands for: one kind of token judges it, and which kind that is follows from what the token says it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from stepgrant.compact import parse_members, split_jws
from stepgrant.errors import IdentityUnavailableError, InvalidInputError, InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.jwt import VerifiedJwtSvid, verify_jwt_svid
from stepgrant_gateway.core.principal import METHOD_JWT, Peer
from stepgrant_gateway.identity.successes import MAX_CACHED, Successes

MAX_BEARER_BYTES: Final = 8192
"""Of any kind of token: half of what the metadata of a call may take."""


class BearerKind(Protocol):
    """One kind of bearer token."""

    def takes(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token that claims this, unverified, is of this kind."""

    def verify(self, token: str) -> Peer:
        """The workload that the token proves, now.

        Raises:
            InvalidInputError: it proves nobody.
        """


class Bearers:
    """Has each token judged by the first kind that takes it, and by no other: a token that one refuses is refused."""

    def __init__(self, kinds: Sequence[BearerKind]) -> None:
        self._kinds = tuple(kinds)

    def verify(self, token: str) -> Peer:
        """The workload that `token` proves, now.

        Raises:
            InvalidInputError: it proves nobody, or is of no kind that is taken here.
        """
        claims = parse_members(split_jws(token, MAX_BEARER_BYTES).payload)
        for kind in self._kinds:
            if kind.takes(claims):
                return kind.verify(token)
        raise InvalidInputError("the bearer token is of no kind that this gateway takes: look at its `sub` and `iss`")


class JwtSvidBearers:
    """`BearerKind` of JWT-SVIDs for `audience`.

    `bundles` gives the bundles as they are now, `now` the aware wall clock. Successes are remembered by the token, the
    revision of the JWT authorities of its trust domain, and its times; failures never. For one event loop.
    """

    def __init__(
        self, audience: str, bundles: Callable[[], BundleSet], now: Callable[[], datetime], *,
        max_cached: int = MAX_CACHED,
    ) -> None:  # fmt: skip
        self._audience = audience
        self._bundles = bundles
        self._now = now
        self._successes: Successes[VerifiedJwtSvid] = Successes(max_cached)

    def takes(self, claims: Mapping[str, Any]) -> bool:
        """A `sub` that begins as a SPIFFE ID does: no other token can stand for one."""
        return str(claims.get("sub")).startswith("spiffe:")

    def verify(self, token: str) -> Peer:
        """The workload whose JWT-SVID `token` is.

        Raises:
            InvalidSvidError: it is none for us, here and now.
        """
        try:
            bundles = self._bundles()
        except IdentityUnavailableError as error:
            raise InvalidSvidError(f"there are no bundles to judge the caller by: {error}") from error
        now = self._now()
        svid = self._successes.get(token.encode("ascii"), lambda known: _still_good(known, bundles, now))
        if svid is None:
            svid = verify_jwt_svid(token, self._audience, bundles, now)
            self._successes.put(token.encode("ascii"), svid)
        return Peer(svid.spiffe_id, METHOD_JWT, svid.not_after, svid.token_sha256)


def _still_good(svid: VerifiedJwtSvid, bundles: BundleSet, now: datetime) -> bool:
    bundle = bundles.jwt(svid.spiffe_id.trust_domain)
    unchanged = bundle is not None and bundle.revision == svid.bundle_revision
    return unchanged and (svid.not_before is None or svid.not_before <= now) and now < svid.not_after
