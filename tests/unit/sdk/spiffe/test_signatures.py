"""Signatures by SVID keys."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from stepgrant.errors import InvalidSvidError, MisuseError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.signatures import sign_with_key, verify_svid_signature
from stepgrant.spiffe.x509 import VerifiedSvid, verify_x509_svid
from tests.kit.ca import IssuedSvid, Key, TestAuthority
from tests.kit.clock import START

AUTHORITY = TestAuthority()
KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
}


def svid(key: Key) -> tuple[IssuedSvid, VerifiedSvid]:
    issued = AUTHORITY.issue("gateway", key=key)
    return issued, verify_x509_svid(issued.leaf_der, (), BundleSet((AUTHORITY.bundle(),)), START)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_signature_is_good_for_its_key_and_message_only(key: Key) -> None:
    issued, verified = svid(key)
    signature = sign_with_key(issued.key_pem, b"message")
    verify_svid_signature(verified, b"message", signature)
    _, another = svid(rsa.generate_private_key(65537, 2048) if isinstance(key, rsa.RSAPrivateKey) else KEYS["RSA"])
    for wrong_svid, message, wrong in (
        (verified, b"massage", signature),
        (verified, b"message", signature[:-1] + bytes([signature[-1] ^ 1])),
        (verified, b"message", b""),
        (verified, b"message", b"x" * 1024),
        (another, b"message", signature),
    ):
        with pytest.raises(InvalidSvidError, match="not made with the key"):
            verify_svid_signature(wrong_svid, message, wrong)


def test_an_oversized_signature_is_not_even_tried() -> None:
    with pytest.raises(InvalidSvidError, match="more than 1024"):
        verify_svid_signature(svid(KEYS["P-256"])[1], b"m", b"x" * 1025)


def test_other_paddings_and_digests_are_refused() -> None:
    _, verified = svid(KEYS["RSA"])
    for wrong in (
        KEYS["RSA"].sign(b"m", padding.PKCS1v15(), hashes.SHA256()),
        KEYS["RSA"].sign(b"m", padding.PSS(padding.MGF1(hashes.SHA1()), 20), hashes.SHA1()),
        KEYS["RSA"].sign(b"m", padding.PSS(padding.MGF1(hashes.SHA256()), 0), hashes.SHA256()),
    ):
        with pytest.raises(InvalidSvidError):
            verify_svid_signature(verified, b"m", wrong)


def test_a_key_that_no_svid_has_does_not_sign() -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(MisuseError):
        sign_with_key(pem, b"m")
