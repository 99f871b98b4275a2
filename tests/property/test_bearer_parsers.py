"""Tokens of others and what is read beside them: each a value or a refusal, whatever its parts are (see `test_parsers`).

Bounds: 8 KiB a token (`MAX_BEARER_BYTES`, `MAX_SUBJECT_TOKEN`), 256 KiB and 64 keys a key set, 1 KiB a header.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.compact import JwsHeaderError
from stepgrant.errors import InvalidInputError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.jwt import read_own_jwt_svid
from stepgrant_gateway.identity.bearers import Bearers, JwtSvidBearers
from stepgrant_gateway.identity.jwks import parse_key_set
from stepgrant_gateway.identity.logout import LogoutTokens
from stepgrant_gateway.identity.mapping import Mapped
from stepgrant_gateway.identity.oidc import Trust, verify_oidc_token
from stepgrant_gateway.rpc.presented import by_bearer
from stepgrant_gateway.web.logout import logout_page
from tests.kit.clock import START
from tests.kit.foreign import ForeignSigner
from tests.kit.mutations import as_json, json_values, mutated, rewritten
from tests.kit.oidc import AUDIENCE, Issuer, logout_claims

ISSUER = Issuer(algorithm="ES256")
KEYS = parse_key_set(ISSUER.jwks)
CLAIMS = ISSUER.claims(START, nbf=int(START.timestamp()), azp=AUDIENCE, owner="acme", repository="acme/shop")
WORKLOAD = parse_spiffe_id("spiffe://acme.org/agent")
UNDER = parse_spiffe_id("spiffe://acme.org/ci")
MAPPED = Mapped(UNDER, "spiffe://acme.org/ci/{repository}/x-{owner}", {"owner": "a*e", "repository": "*"})
BEARERS = Bearers([JwtSvidBearers(AUDIENCE, BundleSet, lambda: START)])
KEY_SET = {"keys": [ISSUER.signer.jwk(use="sig"), ForeignSigner.of("RS256", "two").jwk(alg="RS256"), {"kty": "oct"}]}


class Known:
    """As `Issuers`, of one whose keys are known."""

    def trust_in(self, _: str) -> Trust:
        return Trust(AUDIENCE, frozenset(), KEYS)

    def missing_key(self, _: str) -> bool:
        return False


def oidc(token: str) -> object:
    return verify_oidc_token(token, lambda _: Trust(AUDIENCE, frozenset(), KEYS), START)


def bearer(data: bytes) -> object:
    text = data.decode("latin-1")
    return BEARERS.verify(str(by_bearer(st, (text,))))  # type: ignore[arg-type] - the connection is not looked at


def mapped(claims: Any) -> None:
    """Whoever a mapping makes of claims lies below `under`."""
    made = MAPPED.workload(claims if isinstance(claims, dict) else {"owner": claims, "repository": claims})
    assert str(made).startswith(f"{UNDER}/")
    assert made == parse_spiffe_id(str(made))


DOCUMENTS: dict[str, tuple[Callable[[Any], object], Any]] = {
    "claims of an OIDC token": (lambda value: oidc(ISSUER.signer.sign(as_json(value))), CLAIMS),
    "header of an OIDC token": (
        lambda value: oidc(ISSUER.signer.sign(CLAIMS, **(value if isinstance(value, dict) else {"x": value}))),
        {"kid": "one", "typ": "JWT", "x5t": "AAAA", "crit": ["b64"], "jwk": {"kty": "EC"}},
    ),
    "claims of a logout token": (
        lambda value: LogoutTokens(cast("Any", Known()), lambda: START).verify(
            ISSUER.signer.sign(as_json(value), typ="logout+jwt")
        ),
        logout_claims(ISSUER, START, sub="u-17", sid="s-1"),
    ),
    "own JWT-SVID": (
        lambda value: read_own_jwt_svid(ISSUER.signer.sign(as_json(value)), WORKLOAD, AUDIENCE, START),
        {"sub": str(WORKLOAD), "aud": [AUDIENCE], "exp": int(START.timestamp()) + 60},
    ),
    "key set": (lambda value: parse_key_set(as_json(value)), KEY_SET),
    "claims of a mapping": (mapped, {"owner": "acme", "repository": "shop"}),
}
TEXTS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "OIDC token": (lambda data: oidc(data.decode("latin-1")), ISSUER.token(START).encode()),
    "key set": (parse_key_set, as_json(KEY_SET)),
    "authorization": (bearer, b"Bearer " + ISSUER.token(START).encode()),
    "logout request": (logout_page(lambda _: ""), b"logout_token=aaaa.bbbb.cccc&state=%41%2e"),
    "mapping": (lambda data: mapped(data.decode("latin-1")), b"acme"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_with_other_parts_is_a_value_or_a_refusal(name: str) -> None:
    """INV-11: whole and well signed."""
    reads, seed = DOCUMENTS[name]

    @given(rewritten([seed]) | json_values)
    def holds(value: Any) -> None:
        with suppress(InvalidInputError):
            reads(value)

    holds()


@pytest.mark.parametrize("name", TEXTS)
def test_bytes_are_a_value_or_a_refusal(name: str) -> None:
    """INV-11: mutations, and bytes that never were anything."""
    reads, seed = TEXTS[name]

    @given(mutated([seed]) | st.binary(max_size=200))
    def holds(data: bytes) -> None:
        with suppress(InvalidInputError):
            reads(data)

    holds()


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_value_of_a_claim_leaves_its_segment(owner: str, repository: str) -> None:
    """INV-11: neither a slash nor a wildcard gets from a claim into an ID, nor does a claim stand in another's place."""
    try:
        made = MAPPED.workload({"owner": owner, "repository": repository})
    except InvalidInputError:
        return
    assert str(made) == f"{UNDER}/{repository}/x-{owner}"
    assert not {"/", "*", "%"} & set(owner + repository)


def test_what_is_mutated_here_is_good() -> None:
    """Or the mutations would be of nothing."""
    assert oidc(ISSUER.token(START))
    with pytest.raises(InvalidInputError, match="no kind"):
        bearer(TEXTS["authorization"][1])
    mapped({"owner": "acme", "repository": "shop"})
    for reads, seed in DOCUMENTS.values():
        with suppress(JwsHeaderError):  # one header shows what no header may have
            reads(seed)
