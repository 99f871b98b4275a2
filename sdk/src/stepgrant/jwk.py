"""P-256 public keys: as JWK (RFC 7517), as SubjectPublicKeyInfo, and their thumbprints (RFC 7638)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from stepgrant.compact import base64url, from_base64url
from stepgrant.errors import InvalidInputError

MAX_PUBLIC_KEY_BYTES: Final = 256
"""DER of a P-256 SubjectPublicKeyInfo takes 91 bytes."""
COORDINATE_BYTES: Final = 32

_REQUIRED: Final = frozenset({"kty", "crv", "x", "y"})
_OPTIONAL: Final[Mapping[str, object]] = {"alg": "ES256", "use": "sig", "key_ops": ["verify"]}
"""Members that may stand beside the key itself, each with the one value that lets it verify ES256 signatures."""


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The required members of the key's JWK (RFC 7518, section 6.2.1)."""
    numbers = key.public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": base64url(numbers.x.to_bytes(COORDINATE_BYTES, "big")),
        "y": base64url(numbers.y.to_bytes(COORDINATE_BYTES, "big")),
    }


def parse_public_jwk(jwk: object, *, extra: frozenset[str] = frozenset()) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a JWK is, fit to verify ES256. `extra` names further members that are let stand, unread.

    Raises:
        InvalidInputError: another type, curve, use or algorithm, a private or unknown member, a point off the curve.
    """
    if not isinstance(jwk, dict) or _REQUIRED - set(jwk):
        raise InvalidInputError("the JWK is not an object with kty, crv, x and y")
    if set(jwk) - _REQUIRED - set(_OPTIONAL) - extra:
        raise InvalidInputError("the JWK has members other than those of a P-256 public key for ES256")
    if jwk["kty"] != "EC" or jwk["crv"] != "P-256":
        raise InvalidInputError("the JWK is not of kty EC and crv P-256")
    if any(name in jwk and jwk[name] != value for name, value in _OPTIONAL.items()):
        raise InvalidInputError("the JWK is not for verifying ES256: look at its alg, use and key_ops")
    try:
        return ec.EllipticCurvePublicNumbers(_coordinate(jwk["x"]), _coordinate(jwk["y"]), ec.SECP256R1()).public_key()
    except ValueError as error:
        raise InvalidInputError("the JWK's x and y are not a point of P-256") from error


def thumbprint(key: ec.EllipticCurvePublicKey) -> bytes:
    """The JWK thumbprint (RFC 7638) with SHA-256: 32 bytes."""
    members = json.dumps(public_jwk(key), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(members.encode("ascii")).digest()


def public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as SubjectPublicKeyInfo in DER, 91 bytes."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parse_public_der(der: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key in a SubjectPublicKeyInfo in DER.

    Raises:
        InvalidInputError: too large, not one, another curve, or not in its one encoding.
    """
    if len(der) > MAX_PUBLIC_KEY_BYTES:
        raise InvalidInputError(f"the public key takes {len(der)} bytes, more than {MAX_PUBLIC_KEY_BYTES}")
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInputError("the public key is not SubjectPublicKeyInfo in DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInputError("the public key is not of P-256")
    if public_der(key) != der:
        raise InvalidInputError("the public key is not in its canonical encoding")
    return key


def _coordinate(value: Any) -> int:
    data = from_base64url(value) if isinstance(value, str) else b""
    if len(data) != COORDINATE_BYTES:
        raise ValueError("not a string of 32 bytes in base64url")
    return int.from_bytes(data, "big")
