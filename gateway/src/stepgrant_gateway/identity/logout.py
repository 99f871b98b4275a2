"""Verifies logout tokens (OpenID Connect Back-Channel Logout 1.0, sections 2.4 and 2.6).

The steps of `LogoutTokens.verify` carry their numbers:

1. size and shape: a compact JWS; `typ` absent, `JWT`, or `logout+jwt` (section 2.4)
2. issuer, key and signature as of an ID token (section 2.6, steps 2 to 4): `oidc.verified_claims`
3. audience and times as of an ID token; `iat` and `exp` are there (section 2.4)
4. `events` is an object with the member of back-channel logout, itself an object (section 2.6, step 6)
5. no `nonce`: an ID token is no logout token (section 2.6, step 7)
6. `sub` or `sid` or both, texts of their form (section 2.6, step 5)
7. `jti` is there, and not one that came lately (section 2.6, step 8)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from stepgrant.errors import InvalidIdError, InvalidInputError
from stepgrant.intent import Json
from stepgrant.subject import SubjectId
from stepgrant_gateway.core.logouts import Logout
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.oidc import UnknownKeyError, require_audience, times, verified_claims

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
MAX_SID_CHARACTERS: Final = 255
MAX_JTI_CHARACTERS: Final = 255
MAX_REMEMBERED: Final = 16_384
_TYPES: Final[frozenset[str | None]] = frozenset({None, "JWT", "logout+jwt"})


class LogoutTokens:
    """Verifies logout tokens of the issuers of users, each once. For one event loop."""

    def __init__(self, issuers: Issuers, now: Callable[[], datetime]) -> None:
        """`now` is the aware wall clock."""
        self._issuers = issuers
        self._now = now
        self._seen: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def verify(self, token: str) -> Logout:
        """What the issuer has ended.

        Raises:
            InvalidInputError: it is no logout token of a configured issuer for us; the text holds nothing of the token.
        """
        now = self._now()
        try:
            # 1., 2.
            signed = verified_claims(token, self._issuers.trust_in, _TYPES)
        except UnknownKeyError as error:
            self._issuers.missing_key(error.issuer)
            raise
        # 3.
        issuer, claims = signed.issuer, signed.claims
        require_audience(claims, signed.trust)
        expires_at, _, issued_at = times(claims, now)
        if issued_at is None:
            raise InvalidInputError("it has no `iat`")
        # 4.
        events = claims.get("events")
        if not isinstance(events, Mapping) or not isinstance(events.get(EVENT), Mapping):
            raise InvalidInputError("its `events` does not say that it is a logout")
        # 5.
        if "nonce" in claims:
            raise InvalidInputError("it has a `nonce`, which no logout token has")
        # 6.
        sub, sid = (_text(claims, name, MAX_SID_CHARACTERS) for name in ("sub", "sid"))
        if sub is None and sid is None:
            raise InvalidInputError("it names neither `sub` nor `sid`")
        if sub is not None:
            try:
                SubjectId(issuer, sub)
            except InvalidIdError as error:
                raise InvalidInputError(str(error)) from error
        # 7.
        jti = _text(claims, "jti", MAX_JTI_CHARACTERS)
        if jti is None:
            raise InvalidInputError("it has no `jti`")
        self._once(issuer, jti, expires_at, now)
        return Logout(issuer, sub, sid, issued_at)

    def _once(self, issuer: str, jti: str, expires_at: datetime, now: datetime) -> None:
        for key in [key for key, until in self._seen.items() if until <= now]:
            del self._seen[key]
        if (issuer, jti) in self._seen:
            raise InvalidInputError("it has come already")
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.popitem(last=False)
        self._seen[issuer, jti] = expires_at


def _text(claims: Mapping[str, Json], name: str, most: int) -> str | None:
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise InvalidInputError(f"its `{name}` is not a text of 1 to {most} characters")
    return value
