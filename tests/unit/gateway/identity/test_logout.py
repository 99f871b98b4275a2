"""Logout tokens: each step of their verification (OpenID Connect Back-Channel Logout 1.0, section 2.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.core.logouts import Logout
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.logout import LogoutTokens
from stepgrant_gateway.identity.oidc import verify_oidc_token
from tests.kit.clock import ManualClock
from tests.kit.oidc import AUDIENCE, Issuer, logout_claims

ISSUER = Issuer()


class Taking:
    """One issuer of users, and who takes its logout tokens."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        (folder / "jwks.json").write_bytes(ISSUER.jwks)
        self.issuers = Issuers([OidcIssuer(ISSUER.url, AUDIENCE, jwks=folder / "jwks.json")], self.clock)
        self.tokens = LogoutTokens(self.issuers, self.clock.now)

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        changed = logout_claims(ISSUER, self.clock.now(), **claims)
        return ISSUER.signer.sign(changed, **{"typ": "logout+jwt", **(header or {})})

    def refused(self, token: str) -> str:
        with pytest.raises(InvalidInputError) as error:
            self.tokens.verify(token)
        return str(error.value)


@pytest.fixture
async def taking(tmp_path: Path) -> Taking:
    built = Taking(tmp_path)
    await built.issuers.begin()
    return built


@pytest.mark.parametrize("names", [{"sub": "u-17"}, {"sub": None, "sid": "s-1"}, {"sub": "u-17", "sid": "s-1"}])
async def test_a_logout_token_says_whose_sessions_have_ended(taking: Taking, names: dict[str, Any]) -> None:
    for number, typ in enumerate(("logout+jwt", "JWT", None)):
        found = taking.tokens.verify(taking.token({"typ": typ}, jti=f"{number}", **names))
        assert found == Logout(ISSUER.url, names.get("sub"), names.get("sid"), taking.clock.now())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"events": None}, "`events`"),
        ({"events": {}}, "`events`"),
        ({"events": {"http://schemas.openid.net/event/backchannel-logout": "x"}}, "`events`"),
        ({"events": ["http://schemas.openid.net/event/backchannel-logout"]}, "`events`"),
        ({"nonce": "n"}, "`nonce`"),
        ({"sub": None}, "neither"),
        ({"sub": ""}, "`sub`"),
        ({"sid": 5}, "`sid`"),
        ({"jti": None}, "no `jti`"),
        ({"jti": ""}, "`jti`"),
        ({"iat": None}, "no `iat`"),
        ({"exp": None}, "no `exp`"),
        ({"exp": 1}, "expired"),
        ({"aud": "another"}, "`aud`"),
        ({"iss": "https://other.acme.test"}, "no issuer that is configured"),
    ],
)
async def test_each_claim_of_a_logout_token_is_what_it_must_be(
    taking: Taking, changes: dict[str, Any], says: str
) -> None:
    assert says in taking.refused(taking.token(**changes))


async def test_other_tokens_are_no_logout_and_a_logout_is_no_other_token(taking: Taking) -> None:
    now = taking.clock.now()
    for header in ({"typ": "at+jwt"}, {"typ": "stepgrant+jwt"}, {"alg": "none"}, {"kid": "other"}):
        taking.refused(taking.token(header))
    assert "`events`" in taking.refused(ISSUER.token(now))
    with pytest.raises(InvalidInputError, match="a logout"):
        verify_oidc_token(taking.token({"typ": "JWT"}), taking.issuers.trust_in, now)
    taking.refused(Issuer(ISSUER.url, "ES256").signer.sign(logout_claims(ISSUER, now)))


async def test_a_logout_token_is_taken_once(taking: Taking) -> None:
    token = taking.token(jti="one")
    taking.tokens.verify(token)
    assert "come already" in taking.refused(token)
    taking.tokens.verify(taking.token(jti="two"))
