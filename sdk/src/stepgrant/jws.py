"""Compact JWS with ES256 (RFC 7515, RFC 7518 section 3.4): decoded strictly before any cryptography."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from stepgrant.errors import InvalidInputError
from stepgrant.grant import base64url, from_base64url

ALGORITHM: Final = "ES256"
MAX_HEADER_CHARACTERS: Final = 1024
SIGNATURE_BYTES: Final = 64

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_ES256: Final = ec.ECDSA(SHA256())
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of P-256 (SEC 2, section 2.4.2)."""


class JwsMalformedError(InvalidInputError):
    """Not three segments of canonical base64url within bounds, with a strict JSON header first."""

    code = "jws_malformed"


class JwsHeaderError(InvalidInputError):
    """A header with another algorithm, another type, or a member that this kind of token does not have."""

    code = "jws_header"


class JwsSignatureError(InvalidInputError):
    """A signature that is not that key's over that token."""

    code = "jws_signature"


@dataclass(frozen=True, slots=True)
class UnverifiedJws:
    """A token of the right shape, its signature not checked: read no claim of it before `verify_jws`."""

    header: Mapping[str, Any]
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_jws(token: str, *, typ: str | None, members: frozenset[str], max_bytes: int) -> UnverifiedJws:
    """The parts of a compact JWS whose header has exactly `members`, `alg` ES256 and the media type `typ` (None: none).

    With exact members, `crit`, `b64`, `jku`, `jwk`, `x5u`, `x5c` and whatever comes next are refused unless named
    (RFC 8725, sections 3.1, 3.9 to 3.11).

    Raises:
        JwsMalformedError: size, segments, base64url or JSON.
        JwsHeaderError: members, algorithm or type.
    """
    if len(token) > max_bytes:
        raise JwsMalformedError(f"it takes more than {max_bytes} bytes")
    segments = token.split(".")
    if len(segments) != 3 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise JwsMalformedError("it is not three segments of base64url")
    if len(segments[0]) > MAX_HEADER_CHARACTERS:
        raise JwsMalformedError(f"its header takes more than {MAX_HEADER_CHARACTERS} characters")
    try:
        raw_header, payload, signature = (from_base64url(segment) for segment in segments)
    except ValueError as error:
        raise JwsMalformedError("a segment is not canonical base64url") from error
    header = parse_members(raw_header)
    if header.get("alg") != ALGORITHM:
        raise JwsHeaderError(f"its `alg` is not {ALGORITHM}")
    if header.get("typ") != typ:
        raise JwsHeaderError(f"its `typ` is not {typ}")
    if set(header) != members:
        raise JwsHeaderError(f"its header does not have exactly {', '.join(sorted(members))}")
    return UnverifiedJws(header, payload, f"{segments[0]}.{segments[1]}".encode("ascii"), signature)


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
    if len(signature) != SIGNATURE_BYTES:
        raise JwsSignatureError("the signature is not 64 bytes")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise JwsSignatureError("the signature's r or s is out of range")
    try:
        key.verify(encode_dss_signature(r, s), message, _ES256)
    except InvalidSignature as error:
        raise JwsSignatureError("the signature does not verify") from error


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


def parse_members(document: bytes) -> dict[str, Any]:
    """The members of a small JSON object, none twice. For headers and for proofs; arguments go through `intent`.

    Raises:
        JwsMalformedError: not one.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise JwsMalformedError("a JSON object names a member twice")
        return result

    try:
        value = json.loads(document.decode("utf-8"), object_pairs_hook=pairs)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise JwsMalformedError("a part of it is not JSON") from error
    if not isinstance(value, dict):
        raise JwsMalformedError("a part of it is not a JSON object")
    return value
