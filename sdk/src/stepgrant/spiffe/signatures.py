"""Signatures by the private key of an X.509-SVID: what vouches for announced keys and for checkpoints.

ECDSA with SHA-256 in DER, or RSASSA-PSS with SHA-256 and a salt of 32 bytes; which one follows from the key alone.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key

from stepgrant.errors import InvalidSvidError, MisuseError
from stepgrant.spiffe.x509 import VerifiedSvid

MAX_SIGNATURE_BYTES: Final = 1024
"""Bytes of a signature: RSA of 8192 bits."""


def sign_with_key(private_key_pem: bytes, message: bytes) -> bytes:
    """The signature over `message` by the key of an SVID (PKCS#8 PEM without password).

    Raises:
        MisuseError: a key that SVIDs do not have.
    """
    key = load_pem_private_key(private_key_pem, None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, _pss(), hashes.SHA256())
    raise MisuseError("an SVID's key is RSA or EC")


def verify_svid_signature(svid: VerifiedSvid, message: bytes, signature: bytes) -> None:
    """Returns if `signature` over `message` was made with the key of `svid`.

    Raises:
        InvalidSvidError: it was not.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise InvalidSvidError(f"a signature takes {len(signature)} bytes, more than {MAX_SIGNATURE_BYTES}")
    key = load_der_public_key(svid.public_key_spki)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, _pss(), hashes.SHA256())
        else:
            raise InvalidSvidError(f"the key of {svid.spiffe_id} is neither RSA nor EC")
    except InvalidSignature as error:
        raise InvalidSvidError(f"the signature was not made with the key of {svid.spiffe_id}") from error


def _pss() -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
