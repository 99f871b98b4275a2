"""Compact JWS with ES256 (RFC 7515, RFC 7518 section 3.4): decoded strictly before any cryptography."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from stepgrant.compact import JwsHeaderError, JwsSignatureError, UnverifiedJws, base64url, split_jws
from stepgrant.jose import verify_ecdsa

ALGORITHM: Final = "ES256"

_SHA256: Final = SHA256()
_ES256: Final = ec.ECDSA(_SHA256)


def parse_jws(token: str, *, typ: str | None, members: frozenset[str], max_bytes: int) -> UnverifiedJws:
    """The parts of a compact JWS whose header has exactly `members`, `alg` ES256 and the media type `typ` (None: none).

    With exact members, `crit`, `b64`, `jku`, `jwk`, `x5u`, `x5c` and whatever comes next are refused unless named
    (RFC 8725, sections 3.1, 3.9 to 3.11).

    Raises:
        JwsMalformedError: size, segments, base64url or JSON.
        JwsHeaderError: members, algorithm or type.
    """
    jws = split_jws(token, max_bytes)
    header = jws.header
    if header.get("alg") != ALGORITHM:
        raise JwsHeaderError(f"its `alg` is not {ALGORITHM}")
    if header.get("typ") != typ:
        raise JwsHeaderError(f"its `typ` is not {typ}")
    if set(header) != members:
        raise JwsHeaderError(f"its header does not have exactly {', '.join(sorted(members))}")
    return jws


def verify_jws(jws: UnverifiedJws, key: ec.EllipticCurvePublicKey) -> bytes:
    """The payload, if the signature is `key`'s.

    Raises:
        JwsSignatureError: it is not, or is not r and s of 32 bytes each.
    """
    verify_raw(jws.signature, jws.signing_input, key)
    return jws.payload


def verify_raw(signature: bytes, message: bytes, key: ec.EllipticCurvePublicKey) -> None:
    """Returns if `signature`, r and s of 32 bytes each, is the key's over `message` (RFC 7518, section 3.4).

    Raises:
        JwsSignatureError: it is not.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise JwsSignatureError("the key is not of P-256")
    verify_ecdsa(signature, message, key, _SHA256)


def sign_raw(message: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The ES256 signature over `message`: r and s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(message, _ES256))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def sign_jws(header: Mapping[str, Any], payload: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """The compact JWS of a payload. `header` comes without `alg`, which is ES256."""
    return sign_under(header_segment(header), payload, key)


def header_segment(header: Mapping[str, Any]) -> str:
    """The first segment of every JWS with this header, for `sign_under`. `alg`, which is ES256, is added."""
    members = json.dumps({"alg": ALGORITHM, **header}, separators=(",", ":"), sort_keys=True)
    return base64url(members.encode("utf-8"))


def sign_under(segment: str, payload: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """The compact JWS of a payload under a header that `header_segment` has written."""
    signing_input = f"{segment}.{base64url(payload)}"
    return f"{signing_input}.{base64url(sign_raw(signing_input.encode('ascii'), key))}"
