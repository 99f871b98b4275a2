"""Verifies tokens of OIDC issuers (OpenID Connect Core 1.0, section 3.1.3.7; RFC 7519, section 7.2; RFC 8725).

The steps of `verify_oidc_token` carry their numbers:

1. size and shape: a compact JWS, a header of known members, `typ` absent or `JWT` (RFC 8725, sections 3.1, 3.9 to 3.11)
2. the issuer is one that is configured, byte for byte (Core, step 2; RFC 8725, section 3.8); until step 3 that only says
   whose keys count
3. the signature, by the one key of that issuer that `kid` names, with an algorithm that the key is for (Core, steps 6 and 7;
   RFC 8725, sections 3.1 and 3.2)
4. the claims are strict JSON, of a token that stands for somebody and may be shown by whoever has it: no `events`
   (a Security Event or logout token: RFC 8417, section 2.2; Back-Channel Logout, section 2.4), and no `cnf` (RFC 7800: its
   holder would have to prove possession, which nobody asks for here)
5. the audience is exactly ours and no other's (Core, steps 3 to 5): `aud` is that text, or a list of it alone; `azp`, if
   there, is that or a party that is configured
6. times: `exp` has not come, without leeway; `nbf` and `iat`, if there, have, within LEEWAY (Core, steps 9 and 10)
7. `sub` is there, and of its form (Core, section 2)

`nonce`, `acr` and `auth_time` (Core, steps 11 to 13) are the client's, who began the login and is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from stepgrant.compact import parse_members
from stepgrant.errors import InvalidIdError, InvalidInputError
from stepgrant.grant import LEEWAY
from stepgrant.intent import Json, parse_object
from stepgrant.jose import parse_foreign_jws, verify_foreign_jws
from stepgrant.subject import MAX_SUBJECT_TOKEN, SubjectId
from stepgrant_gateway.identity.jwks import KeySet

_MEMBERS: Final = frozenset({"typ", "kid", "x5t", "x5t#S256"})
"""What the header may have. Thumbprints are what some issuers add; no key is looked for by them."""
_TYPES: Final[frozenset[str | None]] = frozenset({None, "JWT"})
_LAST_SECOND: Final = 253402300799
"""9999-12-31T23:59:59Z, the last second that a datetime holds."""


class UnknownKeyError(InvalidInputError):
    """The token names a key that its issuer's set, as it was fetched last, does not have. It may have a new one."""

    code = "unknown_key"

    def __init__(self, issuer: str) -> None:
        super().__init__(f"{issuer} has no key with the `kid` of the token")
        self.issuer = issuer


@dataclass(frozen=True, slots=True)
class Trust:
    """What one issuer is trusted with: its tokens for `audience`, by these keys; `parties`: further values of `azp`."""

    audience: str
    parties: frozenset[str]
    keys: KeySet


@dataclass(frozen=True, slots=True)
class VerifiedOidcToken:
    """A token that was verified: who it is about, from when until when, and all of its claims, by which set of keys.

    `not_before` is the later of `nbf` and `iat`, None without either. `signed_by` is the SHA-256 of the key (`key_sha256`).
    """

    subject: SubjectId
    expires_at: datetime
    not_before: datetime | None
    claims: Mapping[str, Json] = field(repr=False)
    keys: KeySet = field(repr=False)
    signed_by: bytes


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """What an issuer has signed: its claims, the trust in it, and the SHA-256 of the key. More is not verified."""

    issuer: str
    claims: Mapping[str, Json] = field(repr=False)
    trust: Trust
    signed_by: bytes


def verify_oidc_token(token: str, trusted: Callable[[str], Trust], now: datetime) -> VerifiedOidcToken:
    """What the token says, if it is one of an issuer that `trusted` knows, for us, now.

    `trusted` gives the trust in an issuer of that very text, or raises InvalidInputError.

    Raises:
        UnknownKeyError: as named.
        InvalidInputError: it is not; the text says why, and holds nothing of the token.
    """
    # 1. to 4., but for what another kind of token has.
    signed = verified_claims(token, trusted, _TYPES)
    claims, trust = signed.claims, signed.trust
    for name, meaning in (("events", "an event or a logout"), ("cnf", "a holder that has to prove possession")):
        if name in claims:
            raise InvalidInputError(f"it has the claim `{name}`: it is a token for {meaning}")
    # 5. The audience.
    require_audience(claims, trust)
    # 6. The times.
    expires_at, not_before, _ = times(claims, now)
    # 7. Who it is about.
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise InvalidInputError("its `sub` is not a text")
    try:
        about = SubjectId(signed.issuer, subject)
        return VerifiedOidcToken(about, expires_at, not_before, claims, trust.keys, signed.signed_by)
    except InvalidIdError as error:
        raise InvalidInputError(f"{error}") from error


def verified_claims(token: str, trusted: Callable[[str], Trust], types: frozenset[str | None]) -> SignedClaims:
    """What the issuer of a token with a `typ` of `types` has signed: steps 1 to 4.

    Raises:
        UnknownKeyError, InvalidInputError: as `verify_oidc_token`. Audience, times and what kind of token it is are still open.
    """
    # 1. Size and shape.
    jws = parse_foreign_jws(token, members=_MEMBERS, types=types, max_bytes=MAX_SUBJECT_TOKEN)
    # 2. The issuer, whose keys alone are looked at.
    issuer = parse_members(jws.payload).get("iss")
    if not isinstance(issuer, str):
        raise InvalidInputError("its `iss` is not a text")
    trust = trusted(issuer)
    # 3. The signature.
    kid = jws.header.get("kid")
    if kid is None:
        raise InvalidInputError("its header names no `kid`")
    key = trust.keys.by_kid.get(kid)
    if key is None:
        raise UnknownKeyError(issuer)
    payload = verify_foreign_jws(jws, key)
    # 4. The claims.
    claims = parse_object(payload.decode("utf-8"), max_bytes=MAX_SUBJECT_TOKEN, what="the claims")
    return SignedClaims(issuer, claims, trust, trust.keys.sha256[kid])


def require_audience(claims: Mapping[str, Json], trust: Trust) -> None:
    """Returns if the token is for us and for nobody else: step 5. Raises InvalidInputError."""
    audience, party = claims.get("aud"), claims.get("azp")
    if audience not in (trust.audience, [trust.audience]):
        raise InvalidInputError("its `aud` is not this gateway's audience, or not that alone")
    if "azp" in claims and not (isinstance(party, str) and party in {trust.audience, *trust.parties}):
        raise InvalidInputError("its `azp` is a party that is not configured")


def times(claims: Mapping[str, Json], now: datetime) -> tuple[datetime, datetime | None, datetime | None]:
    """`exp`, the later of `nbf` and `iat`, and `iat`, where they are, once all of them are right: step 6. Raises InvalidInputError."""
    expires_at, not_before, issued_at = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    if expires_at is None:
        raise InvalidInputError("it has no `exp`")
    if now >= expires_at:
        raise InvalidInputError(f"it expired at {expires_at:%Y-%m-%dT%H:%M:%S}Z")
    for name, time in (("nbf", not_before), ("iat", issued_at)):
        if time is not None and time > now + LEEWAY:
            raise InvalidInputError(
                f"its `{name}` is {time:%Y-%m-%dT%H:%M:%S}Z, which has not come: look at the clocks"
            )
    begun = max((time for time in (not_before, issued_at) if time is not None), default=None)
    return expires_at, begun, issued_at


def _time(claims: Mapping[str, Json], name: str) -> datetime | None:
    if name not in claims:
        return None
    value = claims[name]
    whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0 and 0 < value <= _LAST_SECOND
    if not isinstance(value, Decimal) or not whole:
        raise InvalidInputError(f"its `{name}` is not a whole number of seconds")
    return datetime.fromtimestamp(int(value), UTC)
