"""JWT-SVIDs: what the specification demands, each rule broken alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepgrant.dpop import InstanceKey, ReplayCache, make_proof, verify_proof
from stepgrant.errors import GrantRefusedError, InvalidSvidError, RefusalCode
from stepgrant.jose import ALGORITHMS, parse_key
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.jwt import MAX_JWT_SVID_BYTES, verify_jwt_svid
from stepgrant.spiffe.jwt_bundle import JwtBundle
from stepgrant.verify.verifier import verify_grant
from tests.kit.enforcement import REFUND, ResourceDouble
from tests.kit.foreign import ForeignSigner

AUDIENCE = "spiffe://acme.org/stepgrant"
ID = "spiffe://acme.org/agent/support"
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
SIGNERS = {algorithm: ForeignSigner.of(algorithm) for algorithm in sorted(ALGORITHMS)}
OURS, THEIRS = SIGNERS["ES256"], ForeignSigner.of("ES256")


def bundle(*signers: ForeignSigner, trust_domain: str = "acme.org") -> JwtBundle:
    uses: frozenset[str | None] = frozenset({"jwt-svid"})
    return JwtBundle(trust_domain, tuple(parse_key(one.jwk(use="jwt-svid"), uses=uses) for one in signers))


BUNDLES = BundleSet(jwt_bundles=(bundle(OURS), bundle(THEIRS, trust_domain="partner.org")))


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token; a claim that is changed to None is left out."""
    all_of_them = {"sub": ID, "aud": [AUDIENCE], "exp": SECONDS + 300, "iat": SECONDS} | changes
    return {name: value for name, value in all_of_them.items() if value is not None}


def verify(token: str, bundles: BundleSet = BUNDLES, now: datetime = NOW):
    return verify_jwt_svid(token, AUDIENCE, bundles, now)


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_each_algorithm_of_the_specification_verifies(algorithm: str) -> None:
    found = verify(SIGNERS[algorithm].sign(claims()), BundleSet(jwt_bundles=(bundle(SIGNERS[algorithm]),)))
    assert str(found.spiffe_id) == ID
    assert (found.not_before, found.not_after) == (None, NOW + timedelta(seconds=300))


@pytest.mark.parametrize("typ", [None, "JWT", "JOSE"])
@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], ["spiffe://acme.org/other", AUDIENCE]])
def test_what_the_specification_allows_verifies(typ: str | None, aud: object) -> None:
    assert str(verify(OURS.sign(claims(aud=aud, nbf=SECONDS, more={"a": [1.5]}), typ=typ)).spiffe_id) == ID


@pytest.mark.parametrize("iat", [SECONDS + 3600, "yesterday", -1, None])
def test_the_time_of_issue_is_not_judged(iat: object) -> None:
    assert verify(OURS.sign(claims(iat=iat))).not_after == NOW + timedelta(seconds=300)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"exp": None}, "`exp` is not a whole"),
    ({"exp": SECONDS}, "expired"),
    ({"exp": SECONDS - 1}, "expired"),
    ({"exp": str(SECONDS + 300)}, "`exp` is not a whole"),
    ({"exp": SECONDS + 300.5}, "`exp` is not a whole"),
    ({"exp": True}, "`exp` is not a whole"),
    ({"exp": 10**15}, "`exp` is not a whole"),
    ({"exp": -1}, "`exp` is not a whole"),
    ({"nbf": SECONDS + 1}, "not valid before"),
    ({"nbf": "0"}, "`nbf` is not a whole"),
    ({"nbf": False}, "`nbf` is not a whole"),
    ({"aud": None}, "`aud` is neither"),
    ({"aud": ""}, "does not hold"),
    ({"aud": []}, "`aud` is neither"),
    ({"aud": [""]}, "does not hold"),
    ({"aud": {AUDIENCE: 1}}, "`aud` is neither"),
    ({"aud": [AUDIENCE, 1]}, "not a string"),
    ({"aud": [[AUDIENCE]]}, "not a string"),
    ({"aud": [AUDIENCE] * 65}, "`aud` is neither"),
    ({"aud": AUDIENCE + "/more"}, "does not hold"),
    ({"aud": AUDIENCE[:-1]}, "does not hold"),
    ({"aud": AUDIENCE.upper()}, "does not hold"),
    ({"aud": AUDIENCE + " "}, "does not hold"),
    ({"aud": f"x,{AUDIENCE}"}, "does not hold"),
    ({"sub": None}, "`sub` is not a string"),
    ({"sub": [ID]}, "`sub` is not a string"),
    ({"sub": "agent/support"}, "begin with spiffe"),
    ({"sub": "https://acme.org/agent"}, "begin with spiffe"),
    ({"sub": "spiffe://acme.org"}, "no path"),
    ({"sub": "spiffe://acme.org/"}, "path segment"),
    ({"sub": ID + "/"}, "path segment"),
    ({"sub": ID + "\n"}, "path segment"),
    ({"sub": "spiffe://acme.org/agent%2fsupport"}, "path segment"),
    ({"sub": "spiffe://ACME.org/agent"}, "trust domain"),
    ({"sub": "spiffe://acme.org:443/agent"}, "trust domain"),
    ({"sub": "spiffe://user@acme.org/agent"}, "trust domain"),
    ({"sub": ID + "?a=b"}, "path segment"),
    ({"sub": "spiffe://acme.org/" + "a" * 2048}, "more than 2048"),
]


@pytest.mark.parametrize(("changes", "wrong"), BROKEN, ids=str)
def test_id_12_a_claim_that_breaks_a_rule_is_refused(changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InvalidSvidError, match=wrong):
        verify(OURS.sign(claims(**changes)))


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ({"alg": "none"}, "alg"),
        ({"alg": "HS256"}, "alg"),
        ({"alg": "EdDSA"}, "alg"),
        ({"alg": "ES384"}, "its key is for ES256"),
        ({"alg": "RS256"}, "its key is for ES256"),
        ({"typ": "jwt"}, "typ"),
        ({"typ": "at+jwt"}, "typ"),
        ({"typ": "wit+jwt"}, "typ"),
        ({"kid": None}, "no `kid`"),
        ({"kid": "two"}, "no JWT authority with the `kid`"),
        ({"kid": "ONE"}, "no JWT authority with the `kid`"),
        ({"jku": "https://evil.example"}, "jku"),
        ({"jwk": {}}, "jwk"),
        ({"x5c": []}, "x5c"),
        ({"crit": ["exp"]}, "crit"),
        ({"cty": "JWT"}, "cty"),
    ],
    ids=str,
)
def test_id_12_a_header_that_breaks_a_rule_is_refused(header: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InvalidSvidError, match=wrong):
        verify(OURS.sign(claims(), **header))


def test_id_12_json_serialisation_duplicate_claims_and_too_large_tokens_are_refused() -> None:
    head, payload, signature = OURS.sign(claims()).split(".")
    whole = json.dumps({"protected": head, "payload": payload, "signature": signature})
    twice = b'{"exp":1,' + json.dumps(claims()).encode()[1:]
    for token in [whole, OURS.sign(twice), OURS.sign(b"[]"), OURS.sign(claims(pad="a" * MAX_JWT_SVID_BYTES)), ""]:
        with pytest.raises(InvalidSvidError):
            verify(token)


def test_id_12_an_authority_vouches_for_its_own_trust_domain_only() -> None:
    """A partner whose authority signs one of our IDs, under whichever key id, is refused; and so are we for them."""
    for signer in (THEIRS, ForeignSigner("ES256", THEIRS.key, OURS.kid)):
        with pytest.raises(InvalidSvidError, match="signature"):
            verify(signer.sign(claims()))
    with pytest.raises(InvalidSvidError, match="signature"):
        verify(OURS.sign(claims(sub="spiffe://partner.org/agent/support")))
    assert verify(THEIRS.sign(claims(sub="spiffe://partner.org/agent/support"))).spiffe_id.trust_domain == "partner.org"
    with pytest.raises(InvalidSvidError, match="no JWT authorities"):
        verify(OURS.sign(claims(sub="spiffe://sub.acme.org/agent/support")))


def test_id_12_x509_authorities_and_an_empty_bundle_vouch_for_no_jwt_svid() -> None:
    for bundles in (BundleSet(), BundleSet(jwt_bundles=(bundle(),))):
        with pytest.raises(InvalidSvidError, match="no JWT authorities"):
            verify(OURS.sign(claims()), bundles)


def test_tk_17_a_grant_and_a_dpop_proof_are_no_jwt_svids_nor_a_jwt_svid_one_of_them() -> None:
    resource = ResourceDouble()
    grant, svid = resource.gateway.mint(), OURS.sign(claims())
    call = {"htm": "POST", "htu": "https://a/b", "grant": grant, "now": NOW}
    proof = make_proof(InstanceKey.generate(), **call, jti="j")
    for token in (proof, grant, OURS.sign(claims(), typ="stepgrant+jwt")):
        with pytest.raises(InvalidSvidError, match=r"typ|jwk"):
            verify(token)
    for token in (svid, OURS.sign(claims(), typ=None)):
        with pytest.raises(GrantRefusedError) as refused:
            verify_grant(
                token, REFUND, resource.gateway.holder(grant),
                expected=resource.expected, feed=resource.feed, replay=resource.replay,
                now=resource.clock.now(), monotonic=resource.clock.monotonic(),
            )  # fmt: skip
        assert refused.value.refusal.code is RefusalCode.GRANT_HEADER
    with pytest.raises(GrantRefusedError) as unproven:
        verify_proof(svid, **call, jkt=InstanceKey.generate().jkt, replay=ReplayCache())
    assert unproven.value.refusal.code is RefusalCode.HOLDER


def test_no_message_shows_the_token() -> None:
    token = OURS.sign(claims(exp=1))
    with pytest.raises(InvalidSvidError) as caught:
        verify(token)
    assert token.split(".")[2] not in str(caught.value)
