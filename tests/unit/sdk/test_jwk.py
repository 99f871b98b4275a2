"""P-256 public keys in their three forms."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepgrant.errors import InvalidInputError
from stepgrant.jwk import parse_public_der, parse_public_jwk, public_der, public_jwk, thumbprint

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def test_a_key_is_the_same_in_every_form():
    assert parse_public_jwk(public_jwk(KEY)) == KEY
    assert parse_public_der(public_der(KEY)) == KEY


def test_the_thumbprint_is_over_the_required_members_in_order():
    jwk = public_jwk(KEY)
    text = f'{{"crv":"P-256","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
    assert thumbprint(KEY) == hashlib.sha256(text.encode()).digest()


def test_members_for_verifying_are_let_stand_and_named_ones_unread():
    jwk = {**public_jwk(KEY), "alg": "ES256", "use": "sig", "key_ops": ["verify"]}
    assert parse_public_jwk(jwk) == KEY
    assert parse_public_jwk({**jwk, "kid": "1"}, extra=frozenset({"kid"})) == KEY


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"},
        {"crv": "P-384"},
        {"x": "AA"},
        {"x": 1},
        {"x": "A" * 43},
        {"y": public_jwk(KEY)["x"]},
        {"alg": "ES384"},
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"d": "AA"},
        {"kid": "1"},
    ],
    ids=str,
)
def test_any_other_jwk_is_refused(change):
    with pytest.raises(InvalidInputError):
        parse_public_jwk({**public_jwk(KEY), **change})


@pytest.mark.parametrize("jwk", [None, [], {}, {"kty": "EC", "crv": "P-256"}])
def test_what_is_no_key_is_refused(jwk):
    with pytest.raises(InvalidInputError):
        parse_public_jwk(jwk)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\0" * 257,
        public_der(KEY) + b"\0",
        public_der(KEY)[:-1],
        KEY.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        rsa.generate_private_key(65537, 1024)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "large", "trailing", "cut", "point", "P-384", "RSA"],
)
def test_any_other_der_is_refused(der):
    with pytest.raises(InvalidInputError):
        parse_public_der(der)
