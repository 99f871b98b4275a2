"""JWT authorities: each by its own id, each fit for JWT-SVIDs, none of another trust domain or use."""

from __future__ import annotations

import json

import pytest

from stepgrant.errors import InvalidBundleError
from stepgrant.jose import parse_key
from stepgrant.spiffe.bundles import BundleSet, bundle_from_jwks, jwt_bundle_from_jwks
from stepgrant.spiffe.jwt_bundle import MAX_JWT_AUTHORITIES, JwtBundle
from tests.kit.foreign import ForeignSigner, integer, rsa_key

ONE, TWO, RSA = ForeignSigner.of("ES256", "one"), ForeignSigner.of("ES384", "two"), ForeignSigner.of("RS256", "three")
SVID = {"use": "jwt-svid"}


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_a_document_says_which_keys_are_jwt_authorities() -> None:
    keys = [ONE.jwk(**SVID), TWO.jwk(use="wit-svid"), RSA.jwk(use="unheard-of"), ForeignSigner.of("ES256").jwk()]
    bundle = bundle_from_jwks("acme.org", document(*keys)).jwt_bundle
    assert [one.kid for one in bundle.authorities] == ["one"]
    assert bundle.get("two") is None


def test_the_workload_api_need_not_say_what_its_keys_are_for() -> None:
    bundle = jwt_bundle_from_jwks("acme.org", document(ONE.jwk(), TWO.jwk(**SVID), RSA.jwk(use="x509-svid")))
    assert [one.kid for one in bundle.authorities] == ["one", "two"]
    assert jwt_bundle_from_jwks("acme.org", document()).authorities == ()


WRONG: list[tuple[object, str]] = [
    (ONE.jwk(**SVID, kid=None), "no `kid`"),
    (ONE.jwk(**SVID, kid="two"), "same `kid`"),
    (ONE.jwk(**SVID, kid=""), r"keys\[0\].*`kid`"),
    (ONE.jwk(**SVID, alg="RS256"), "`alg`"),
    (ONE.jwk(**SVID, alg="HS256"), "`alg`"),
    (ONE.jwk(**SVID, d="AAAA"), "secret"),
    ({"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "ed", **SVID}, "kty"),
    ({**RSA.jwk(**SVID), "n": integer(rsa_key(1024).public_key().public_numbers().n)}, "1024 bits"),
    ("key", "object"),
    (ONE.jwk(use=["jwt-svid"]), "object|use"),
]


@pytest.mark.parametrize(("key", "wrong"), WRONG, ids=str)
def test_an_authority_that_is_not_one_refuses_the_bundle(key: object, wrong: str) -> None:
    keys = [key, TWO.jwk(**SVID)]
    with pytest.raises(InvalidBundleError, match=wrong):
        jwt_bundle_from_jwks("acme.org", document(*keys))


@pytest.mark.parametrize("text", [b"", b"[]", b'{"keys":{}}', b'{"keys":[],"keys":[]}', b"{", b"\xff"])
def test_what_is_no_jwks_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidBundleError):
        jwt_bundle_from_jwks("acme.org", text)


def test_a_revision_covers_trust_domain_ids_algorithms_keys_and_their_order() -> None:
    def revision(*keys: object, trust_domain: str = "acme.org") -> str:
        return jwt_bundle_from_jwks(trust_domain, document(*keys)).revision

    same = revision(RSA.jwk(), TWO.jwk())
    assert same == revision(RSA.jwk(), TWO.jwk(use="jwt-svid"))
    others = [
        revision(RSA.jwk(), TWO.jwk(), trust_domain="acme.com"),
        revision(RSA.jwk(kid="renamed"), TWO.jwk()),
        revision(RSA.jwk(alg="PS256"), TWO.jwk()),
        revision(RSA.jwk(), ForeignSigner.of("ES384", "two").jwk()),
        revision(TWO.jwk(), RSA.jwk()),
        revision(RSA.jwk()),
    ]
    assert same not in others
    assert len(set(others)) == len(others)


def test_bounds_and_names_are_kept() -> None:
    key = parse_key(ONE.jwk(), uses=frozenset({None}))
    with pytest.raises(InvalidBundleError, match="more than"):
        JwtBundle("acme.org", (key,) * (MAX_JWT_AUTHORITIES + 1))
    for name in ("", "acme.org/x", "ACME.org", "acme.org\n"):
        with pytest.raises(InvalidBundleError):
            JwtBundle(name, ())
    with pytest.raises(InvalidBundleError, match="never merged"):
        BundleSet(jwt_bundles=(JwtBundle("acme.org", (key,)), JwtBundle("acme.org", ())))
    assert BundleSet(jwt_bundles=(JwtBundle("acme.org", (key,)),)).jwt("sub.acme.org") is None
