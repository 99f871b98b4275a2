"""The shape of a compact JWS (RFC 7515, section 7.1), checked before any cryptography. Whose it is, `jws` and `jose` say."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from stepgrant.errors import InvalidInputError

MAX_HEADER_CHARACTERS: Final = 1024

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_FOR_URLS: Final = bytes.maketrans(b"+/", b"-_")


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
    """A token of the right shape, its signature not checked: trust no claim of it before that is."""

    header: Mapping[str, Any]
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def split_jws(token: str, max_bytes: int) -> UnverifiedJws:
    """The parts of a compact JWS: its size, then its segments, then its header's JSON. No member of it is judged.

    Raises:
        JwsMalformedError: size, segments, base64url or JSON.
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
    signing_input = f"{segments[0]}.{segments[1]}".encode("ascii")
    return UnverifiedJws(parse_members(raw_header), payload, signing_input, signature)


def parse_members(document: bytes) -> dict[str, Any]:
    """The members of a small JSON object, none twice. For headers, proofs and claims; arguments go through `intent`.

    Raises:
        JwsMalformedError: not one, or with NaN, infinity or a lone surrogate in it.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise JwsMalformedError("a JSON object names a member twice")
        return result

    try:
        value = json.loads(document.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_no_number)
        if b"\\u" in document:
            # What cannot be encoded again could be neither recorded nor compared.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except JwsMalformedError:
        raise
    except (ValueError, RecursionError) as error:
        raise JwsMalformedError("a part of it is not JSON") from error
    if not isinstance(value, dict):
        raise JwsMalformedError("a part of it is not a JSON object")
    return value


def base64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    return b2a_base64(data, newline=False).translate(_FOR_URLS, b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """The bytes of canonical unpadded base64url; raises ValueError for anything else."""
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
