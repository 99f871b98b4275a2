"""ID-04: what is no SPIFFE ID is none in a certificate and in a token either; what is one comes out byte for byte."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from stepgrant.errors import InvalidSvidError
from stepgrant.jose import parse_key
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.spiffe.jwt import verify_jwt_svid
from stepgrant.spiffe.jwt_bundle import JwtBundle
from stepgrant.spiffe.x509 import verify_x509_svid
from tests.kit.clock import START
from tests.kit.foreign import ForeignSigner
from tests.kit.not_ids import NOT_SPIFFE_IDS
from tests.kit.paths import issue

ROOT = issue("root")
SIGNER = ForeignSigner.of("ES256")
DOMAINS = ("td", "acme.org", "a", "t", "1.2.3.4", "_-.")
"""Those that an ID of the list would belong to, were it one: their authorities are known, and vouch for it."""
BUNDLES = BundleSet(
    tuple(X509Bundle(domain, (ROOT.der,)) for domain in DOMAINS),
    tuple(
        JwtBundle(domain, (parse_key(SIGNER.jwk(use="jwt-svid"), uses=frozenset({"jwt-svid"})),)) for domain in DOMAINS
    ),
)
SAN = ObjectIdentifier("2.5.29.17")
LONGEST = "spiffe://td/" + "a" * (2048 - len("spiffe://td/"))
IDS = ("spiffe://td/a", "spiffe://acme.org/A/b-c_d/...", "spiffe://1.2.3.4/a", "spiffe://_-./a", LONGEST)


def in_a_leaf(text: str) -> str:
    """The ID that a leaf with this URI SAN proves; its bytes are put in as they are, as no library would."""
    uri = text.encode()
    names = sequence(b"\x86" + length(uri) + uri)
    leaf = ROOT.issue("leaf", ca=False, extra=[(x509.UnrecognizedExtension(SAN, names), False)])
    return str(verify_x509_svid(leaf.der, (), BUNDLES, START).spiffe_id)


def in_a_token(text: str) -> str:
    """The ID that a JWT-SVID with this `sub` proves."""
    token = SIGNER.sign({"sub": text, "aud": "here", "exp": int(START.timestamp()) + 60})
    return str(verify_jwt_svid(token, "here", BUNDLES, START).spiffe_id)


def sequence(body: bytes) -> bytes:
    return b"\x30" + length(body) + body


def length(body: bytes) -> bytes:
    """The length octets of DER (X.690, section 8.1.3)."""
    if len(body) < 128:
        return bytes((len(body),))
    octets = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets


@pytest.mark.parametrize("text", [*NOT_SPIFFE_IDS, LONGEST + "a", "spiffe://td"])
def test_id_04_what_is_no_id_of_a_workload_is_none_in_a_leaf_or_in_a_token(text: str) -> None:
    """INV-11: refused, never normalised. What the parser of certificates does not even read is refused as well."""
    with pytest.raises(InvalidSvidError, match=r"can be read|SAN|path"):
        in_a_leaf(text)
    with pytest.raises(InvalidSvidError, match="`sub`"):
        in_a_token(text)


@pytest.mark.parametrize("text", IDS)
def test_id_04_an_id_comes_out_of_a_leaf_and_of_a_token_byte_for_byte(text: str) -> None:
    assert in_a_leaf(text) == in_a_token(text) == text
