"""Tokens of OIDC issuers: each step of the verification, and what gets past none of them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant.grant import LEEWAY
from stepgrant_gateway.identity.jwks import parse_key_set
from stepgrant_gateway.identity.oidc import Trust, UnknownKeyError, VerifiedOidcToken, verify_oidc_token
from tests.kit.clock import START
from tests.kit.foreign import ForeignSigner
from tests.kit.oidc import AUDIENCE, Issuer

ISSUER = Issuer()
OTHER = Issuer("https://other.acme.test", "ES384")
AT = int(START.timestamp())
MINUTE = 60


def trusted(issuer: str) -> Trust:
    known = {one.url: Trust(AUDIENCE, frozenset({"web-app"}), parse_key_set(one.jwks)) for one in (ISSUER, OTHER)}
    if issuer not in known:
        raise InvalidInputError("its `iss` is no issuer that is configured for this")
    return known[issuer]


def verified(token: str) -> VerifiedOidcToken:
    return verify_oidc_token(token, trusted, START)


def refused(token: str) -> str:
    with pytest.raises(InvalidInputError) as error:
        verified(token)
    assert token not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"aud": [AUDIENCE]}, {"azp": AUDIENCE}, {"azp": "web-app"}, {"iat": None}, {"nbf": AT + int(LEEWAY.total_seconds())},
        {"groups": ["a"], "email_verified": True, "score": 1.5, "nested": {"a": [1]}},
    ],
)  # fmt: skip
def test_a_good_token_says_who_it_is_about_until_when_and_what_else(changes: dict[str, Any]) -> None:
    for issuer in (ISSUER, OTHER):
        found = verified(issuer.token(START, **changes))
        assert str(found.subject) == f"{issuer.url}#u-17"
        assert found.expires_at == START.replace(microsecond=0) + timedelta(minutes=10)
        assert set(found.claims) == set(issuer.claims(START, **changes))


def test_headers_as_issuers_write_them_are_taken() -> None:
    for header in ({"typ": None}, {"x5t": "AAAA"}, {"x5t#S256": "AAAA"}):
        verified(ISSUER.token(START, header=header))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"iss": None}, "`iss`"),
        ({"iss": "https://login.acme.test/"}, "no issuer that is configured"),
        ({"iss": "https://login.acme.test.evil.org"}, "no issuer that is configured"),
        ({"iss": "login.acme.test"}, "no issuer that is configured"),
        ({"iss": ["https://login.acme.test"]}, "`iss` is not a text"),
        ({"aud": None}, "`aud`"),
        ({"aud": "stepgrant2"}, "`aud`"),
        ({"aud": "step"}, "`aud`"),
        ({"aud": []}, "`aud`"),
        ({"aud": [AUDIENCE, "another"]}, "`aud`"),
        ({"aud": [[AUDIENCE]]}, "`aud`"),
        ({"aud": {AUDIENCE: 1}}, "`aud`"),
        ({"azp": "mail-app"}, "`azp`"),
        ({"azp": ["web-app"]}, "`azp`"),
        ({"exp": None}, "no `exp`"),
        ({"exp": AT}, "expired"),
        ({"exp": AT - 1}, "expired"),
        ({"exp": str(AT + MINUTE)}, "`exp` is not a whole number"),
        ({"exp": AT + 60.5}, "`exp` is not a whole number"),
        ({"exp": True}, "`exp` is not a whole number"),
        ({"exp": -1}, "`exp` is not a whole number"),
        ({"exp": 2**53}, ""),
        ({"nbf": AT + 3}, "`nbf`"),
        ({"nbf": "now"}, "`nbf`"),
        ({"iat": AT + 3}, "`iat`"),
        ({"sub": None}, "`sub` is not a text"),
        ({"sub": ""}, "`sub`"),
        ({"sub": 17}, "`sub` is not a text"),
        ({"sub": "x" * 256}, "`sub`"),
        ({"sub": "jos\u00e9"}, "`sub`"),
        ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, "a logout"),
        ({"cnf": {"jkt": "x"}}, "prove possession"),
    ],
)  # fmt: skip
def test_tk_07_each_claim_is_what_it_must_be_exactly(changes: dict[str, Any], says: str) -> None:
    sub = changes.pop("sub", "u-17") if "sub" in changes else "u-17"
    assert says in refused(ISSUER.token(START, sub, **changes))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "logout+jwt"}, {"typ": "at+jwt"}, {"typ": "stepgrant+jwt"}, {"typ": "dpop+jwt"}, {"typ": "secevent+jwt"}, {"alg": "none"},
        {"alg": "HS256"}, {"alg": "EdDSA"}, {"alg": "RS384"}, {"alg": "PS256"}, {"kid": None}, {"crit": ["exp"]}, {"b64": False},
        {"jku": "https://evil.org/jwks"}, {"jwk": {}}, {"x5u": "https://evil.org"}, {"x5c": []}, {"cty": "JWT"},
    ],
)  # fmt: skip
def test_tk_17_a_header_of_another_kind_of_token_is_refused(header: dict[str, Any]) -> None:
    refused(ISSUER.token(START, header=header))


def test_a_token_by_another_issuer_s_key_under_the_same_kid_is_refused() -> None:
    assert ISSUER.signer.kid == OTHER.signer.kid
    refused(OTHER.signer.sign(ISSUER.claims(START)))
    refused(ForeignSigner.of("ES256").sign(ISSUER.claims(START)))


def test_a_key_that_is_not_known_is_said_to_be_so() -> None:
    with pytest.raises(UnknownKeyError) as error:
        verified(ISSUER.token(START, header={"kid": "new"}))
    assert error.value.issuer == ISSUER.url


def test_claims_that_are_no_strict_json_are_refused() -> None:
    good = json.dumps(ISSUER.claims(START)).encode()
    for payload in (good[:-1] + b', "sub": "u-18"}', b"[]", b"\xff", good[:-1] + b', "x": NaN}', good + b" {}"):
        refused(ISSUER.signer.sign(payload))
    refused(ISSUER.token(START, big="x" * 9000))
