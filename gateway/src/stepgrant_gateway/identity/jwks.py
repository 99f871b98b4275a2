"""The keys of an OIDC issuer: a JWK Set (RFC 7517, section 5), read so that one `kid` is one key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepgrant.compact import parse_members
from stepgrant.errors import InvalidInputError
from stepgrant.jose import VerificationKey, parse_key

MAX_SET_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_USES: Final[frozenset[str | None]] = frozenset({None, "sig"})


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """The keys that an issuer signs with, by `kid`. Never empty. `digest`: SHA-256 of the document that they came in.

    `sha256` is of each key itself, by the same `kid`: see `key_sha256`.
    """

    by_kid: Mapping[str, VerificationKey]
    digest: bytes
    sha256: Mapping[str, bytes]


def parse_key_set(document: bytes) -> KeySet:
    """The signing keys of a JWK Set. Keys of another use, kind or algorithm, or without `kid`, are passed over (section 5).

    Raises:
        InvalidInputError: it is no JWK Set within bounds, holds a secret, names a signing key twice, or none that is usable.
    """
    if len(document) > MAX_SET_BYTES:
        raise InvalidInputError(f"the key set takes more than {MAX_SET_BYTES} bytes")
    keys = parse_members(document).get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise InvalidInputError(f"the key set has no `keys`, or more than {MAX_KEYS}")
    by_kid: dict[str, VerificationKey] = {}
    passed_over = []
    for jwk in keys:
        if isinstance(jwk, dict) and _PRIVATE & set(jwk):
            raise InvalidInputError("the key set holds a private or a symmetric key: whoever reads it could sign")
        try:
            key = parse_key(jwk, uses=_USES)
        except InvalidInputError as error:
            passed_over.append(str(error))
            continue
        if key.kid is None:
            passed_over.append("a key has no `kid`")
        elif key.kid in by_kid:
            raise InvalidInputError(f"the key set has two signing keys with the `kid` {key.kid[:64]!r}")
        else:
            by_kid[key.kid] = key
    if not by_kid:
        why = f": {passed_over[0]}" if passed_over else ""
        raise InvalidInputError(f"the key set has no key to verify signatures with{why}")
    sha256 = {kid: key_sha256(key) for kid, key in by_kid.items()}
    return KeySet(by_kid, hashlib.sha256(document).digest(), sha256)


def key_sha256(key: VerificationKey) -> bytes:
    """The SHA-256 of a public key as its SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7), whatever it is called."""
    return hashlib.sha256(key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
