"""SPIFFE IDs: parsed once, compared as bytes, never normalised (SPIFFE-ID, section 2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from stepgrant.errors import InvalidIdError

MAX_ID_BYTES: Final = 2048
MAX_TRUST_DOMAIN_BYTES: Final = 255

_SCHEME: Final = "spiffe://"
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_PATH: Final = re.compile(r"(?:/[a-zA-Z0-9._-]+)*")


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: `trust_domain` without scheme, `path` empty or with its leading slash."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        """The ID as a URI."""
        return f"{_SCHEME}{self.trust_domain}{self.path}"


def parse_spiffe_id(text: str, *, what: str = "the SPIFFE ID") -> SpiffeId:
    """The ID that `text` is, byte for byte.

    Raises:
        InvalidIdError: not a SPIFFE ID (SPIFFE-ID, sections 2.1 to 2.3); `what` names the field in the message.
    """
    if len(text) > MAX_ID_BYTES:
        raise InvalidIdError(f"{what} takes {len(text)} bytes, more than {MAX_ID_BYTES}")
    if not text.startswith(_SCHEME):
        raise InvalidIdError(f"{what} does not begin with {_SCHEME}")
    trust_domain, slash, rest = text[len(_SCHEME) :].partition("/")
    if _TRUST_DOMAIN.fullmatch(trust_domain) is None:
        raise InvalidIdError(f"{what} has a trust domain other than 1 to {MAX_TRUST_DOMAIN_BYTES} of a-z 0-9 . _ -")
    path = slash + rest
    if _PATH.fullmatch(path) is None:
        raise InvalidIdError(f"{what} has a path segment that is empty or holds other than a-z A-Z 0-9 . _ -")
    if any(segment in {".", ".."} for segment in path.split("/")):
        raise InvalidIdError(f"{what} has a path segment . or ..")
    return SpiffeId(trust_domain, path)
