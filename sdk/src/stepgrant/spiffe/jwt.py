"""JWT-SVIDs: verified here or not at all (SPIFFE JWT-SVID, sections 2 to 5).

The steps of `verify_jwt_svid` carry their numbers:

1. size, three segments of canonical base64url, a strict JSON header (JWT-SVID, section 2; RFC 7515, section 7.1)
2. header: an `alg` of the list, `typ` absent, `JWT` or `JOSE`, a `kid`, nothing else (JWT-SVID, sections 2.1 to 2.3, 3):
   a grant, a DPoP proof and a WIT-SVID (`wit+jwt`) are no JWT-SVID
3. the claims are one strict JSON object
4. `sub` is a SPIFFE ID with a path (JWT-SVID, section 3.1; SPIFFE-ID, section 2)
5. the JWT authorities of the ID's own trust domain, and no others (JWT-SVID, section 5; Trust Domain and Bundle, section 3)
6. of them the one with that `kid`, for the algorithm that the header names
7. its signature over the token: from here on the claims are the authority's word
8. `aud` holds exactly the expected audience, once at least (JWT-SVID, section 3.2)
9. `exp` is there and not reached (JWT-SVID, section 3.3): no leeway
10. `nbf`, if there, is reached (RFC 7519, section 4.1.5)

`iat` is not looked at: with ordinary clock skew a fresh token would read as "not yet valid". `iss` says nothing that `sub` does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from stepgrant.compact import UnverifiedJws, parse_members
from stepgrant.errors import InvalidInputError, InvalidSvidError
from stepgrant.jose import parse_foreign_jws, verify_foreign_jws
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant.spiffe.source import JwtSvid

MAX_JWT_SVID_BYTES: Final = 8192
"""Twice a grant: RSA of 4096 bits, a long ID and a few audiences take two thirds of a kibibyte each."""
MAX_AUDIENCES: Final = 64
MAX_UNIX_TIME: Final = 253_402_300_799
"""End of the year 9999: what the standard library can say."""

_MEMBERS: Final = frozenset({"kid", "typ"})
_TYPES: Final[frozenset[str | None]] = frozenset({None, "JWT", "JOSE"})


@dataclass(frozen=True, slots=True)
class VerifiedJwtSvid:
    """A JWT-SVID that verified. `token_sha256` is 32 bytes over the token's characters.

    `not_before` is None without `nbf`; `bundle_revision` names the JWT authorities that vouched for it.
    """

    spiffe_id: SpiffeId
    not_before: datetime | None
    not_after: datetime
    token_sha256: bytes
    bundle_revision: str


def verify_jwt_svid(token: str, audience: str, bundles: BundleSet, now: datetime) -> VerifiedJwtSvid:
    """The JWT-SVID that `token` is: for `audience`, by an authority of its own trust domain, at `now` (aware).

    Raises:
        InvalidSvidError: it does not verify; the text names the rule that it breaks, and never the token.
    """
    try:
        # 1., 2.
        jws = parse_foreign_jws(token, members=_MEMBERS, types=_TYPES, max_bytes=MAX_JWT_SVID_BYTES)
        kid = jws.header.get("kid")
        if kid is None:
            raise InvalidSvidError("its header has no `kid`, so no authority can be looked up")
        # 3., 4.
        claims = parse_members(jws.payload)
        spiffe_id = _subject(claims)
        # 5., 6., 7.
        revision = _signed(jws, kid, spiffe_id, bundles)
        # 8.
        _check_audience(claims.get("aud"), audience)
        # 9.
        not_after = _time(claims, "exp")
        if now >= not_after:
            raise InvalidSvidError(
                f"that of {spiffe_id} expired at {not_after:%FT%TZ}: the workload must fetch a new one"
            )
        # 10.
        not_before = _time(claims, "nbf") if "nbf" in claims else None
        if not_before is not None and now < not_before:
            raise InvalidSvidError(f"that of {spiffe_id} is not valid before {not_before:%FT%TZ}")
    except InvalidInputError as error:
        raise InvalidSvidError(f"the JWT-SVID does not verify: {error}") from error
    digest = hashlib.sha256(token.encode("ascii")).digest()
    return VerifiedJwtSvid(spiffe_id, not_before, not_after, digest, revision)


def read_own_jwt_svid(token: str, spiffe_id: SpiffeId, audience: str, now: datetime) -> JwtSvid:
    """What a token says that was fetched for ourselves: of this ID, for this audience, not expired. Its signature is looked at
    by whom it is shown to.

    Raises:
        InvalidSvidError: it says something else.
    """
    try:
        jws = parse_foreign_jws(token, members=_MEMBERS, types=_TYPES, max_bytes=MAX_JWT_SVID_BYTES)
        claims = parse_members(jws.payload)
        if _subject(claims) != spiffe_id:
            raise InvalidSvidError(f"it is not of {spiffe_id}")
        _check_audience(claims.get("aud"), audience)
        not_after = _time(claims, "exp")
    except InvalidInputError as error:
        raise InvalidSvidError(f"the JWT-SVID that was fetched cannot be used: {error}") from error
    if now >= not_after:
        raise InvalidSvidError(f"the JWT-SVID that was fetched expired at {not_after:%FT%TZ}: look at the clocks")
    return JwtSvid(spiffe_id, not_after, token)


def _subject(claims: Mapping[str, Any]) -> SpiffeId:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise InvalidSvidError("its `sub` is not a string")
    spiffe_id = parse_spiffe_id(subject, what="its `sub`")
    if not spiffe_id.path:
        raise InvalidSvidError(f"its `sub` is {spiffe_id}, which has no path: that names a trust domain, no workload")
    return spiffe_id


def _signed(jws: UnverifiedJws, kid: str, spiffe_id: SpiffeId, bundles: BundleSet) -> str:
    bundle = bundles.jwt(spiffe_id.trust_domain)
    if bundle is None or not bundle.authorities:
        raise InvalidSvidError(
            f"no JWT-SVID of trust domain {spiffe_id.trust_domain} is trusted here: no JWT authorities of it are known"
        )
    authority = bundle.get(kid)
    if authority is None:
        raise InvalidSvidError(
            f"trust domain {spiffe_id.trust_domain} has no JWT authority with the `kid` of its header"
        )
    verify_foreign_jws(jws, authority)
    return bundle.revision


def _check_audience(aud: object, audience: str) -> None:
    values = [aud] if isinstance(aud, str) else aud
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_AUDIENCES:
        raise InvalidSvidError(f"its `aud` is neither a string nor a list of 1 to {MAX_AUDIENCES} of them")
    if not all(isinstance(value, str) for value in values):
        raise InvalidSvidError("its `aud` holds something that is not a string")
    if audience not in values:
        raise InvalidSvidError(f"its `aud` does not hold {audience}: fetch it for exactly that audience")


def _time(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= MAX_UNIX_TIME:
        raise InvalidSvidError(f"its `{name}` is not a whole number of seconds since 1970")
    return datetime.fromtimestamp(value, UTC)
