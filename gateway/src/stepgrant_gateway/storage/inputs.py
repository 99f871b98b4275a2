"""Sealing: inputs are encrypted under a daily data key that only the configured recipients can unwrap (design 7)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from stepgrant.ids import ULID_RANDOM_BYTES, ulid, ulid_bytes
from stepgrant_gateway.core.errors import ConfigError, EventInvalidError, LedgerBrokenError, NotAllowedError
from stepgrant_gateway.core.events import Event
from stepgrant_gateway.core.ledger import (
    SALT_BYTES,
    DataKey,
    Sealed,
    SealedInput,
    WrappedKey,
    canonical_input,
    input_digest,
)
from stepgrant_gateway.core.ports import Entropy

DATA_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
MAX_RECIPIENTS: Final = 16
SENSITIVE_MEMBERS: Final = ("arguments", "parameters", "claims")
KEYED_DIGEST: Final = "hmac_sha256"
"""Name of the one member of the object that stands for a sensitive value: 64 hexadecimal digits."""

_SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_WRAP_TAG: Final = b"stepgrant.datakey.v1\0"
_INPUT_TAG: Final = b"stepgrant.input.v1\0"
_SENSITIVE_TAG: Final = b"stepgrant.sensitive.v1\0"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who may open inputs: an X25519 public key; `id` is SHA-256 over its SubjectPublicKeyInfo."""

    id: bytes
    key: X25519PublicKey


@dataclass(slots=True)
class _Today:
    """The data key of the day, in memory until the `last` moment of the day."""

    record: DataKey
    last: datetime
    aead: AESGCM
    sensitive: bytes


def recipient_from_pem(pem: bytes) -> Recipient:
    """The recipient of an X25519 public key in PEM (`BEGIN PUBLIC KEY`).

    Raises:
        ConfigError: it is not one.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("a recipient of inputs is not a public key in PEM; make one with X25519.") from error
    if not isinstance(key, X25519PublicKey):
        raise ConfigError("a recipient of inputs is not an X25519 key; make one with X25519.")
    return Recipient(_key_id(key), key)


def make_recipient() -> tuple[bytes, bytes]:
    """A new pair for `audit show --key`: private key (PKCS #8, unencrypted) and public key, both PEM."""
    private = X25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


class RecipientSealer:
    """`Sealer` that keeps inputs, readable for the recipients only: the gateway itself cannot read those of yesterday."""

    def __init__(self, recipients: Sequence[Recipient], entropy: Entropy) -> None:
        """Seals to all `recipients`, 1 to MAX_RECIPIENTS; ConfigError for none, too many, or one twice."""
        if not 0 < len(recipients) <= MAX_RECIPIENTS or len({item.id for item in recipients}) != len(recipients):
            raise ConfigError(
                f"inputs are sealed to 1 to {MAX_RECIPIENTS} different recipients, not to these {len(recipients)}."
            )
        self._recipients = tuple(recipients)
        self._entropy = entropy
        self._today: _Today | None = None
        self._tag: Callable[[str], bytes] = lru_cache(1)(_input_tag)

    def seal(self, event: Event, instance_id: str, sequence: int) -> Sealed:
        """See `Sealer`. The key of the day lies in the answer each time: storing it twice does nothing."""
        today = self._today
        # An event that is late, or a clock that went back, uses the newer key: keys never go back to an expired day.
        if today is None or event.at > today.last:
            today = self._today = self._new_key(event)
        plain = canonical_input(_masked(event, today.sensitive))
        salt = self._entropy(SALT_BYTES)
        digest = input_digest(salt, plain)
        nonce = self._entropy(NONCE_BYTES)
        ciphertext = today.aead.encrypt(nonce, salt + plain, self._tag(instance_id) + sequence.to_bytes(8, "big"))
        key_id = today.record.key_id
        return Sealed(digest, SealedInput(instance_id, sequence, key_id, nonce, ciphertext), today.record)

    def _new_key(self, event: Event) -> _Today:
        day = event.at.astimezone(UTC).date()
        secret = self._entropy(DATA_KEY_BYTES)
        key_id = ulid(event.at, self._entropy(ULID_RANDOM_BYTES))
        info = _WRAP_TAG + key_id.encode("ascii")
        wrapped = tuple(WrappedKey(item.id, _SUITE.encrypt(secret, item.key, info)) for item in self._recipients)
        last = datetime.combine(day, time.max, UTC)
        return _Today(DataKey(key_id, day, wrapped), last, AESGCM(secret), _sensitive_key(secret))


class DigestSealer:
    """`Sealer` that keeps no input: the chain gets a digest under a salt that nobody has any more."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def seal(self, event: Event, instance_id: str, sequence: int) -> Sealed:  # noqa: ARG002 - the port's shape
        """See `Sealer`."""
        plain = canonical_input(_masked(event, self._entropy(DATA_KEY_BYTES)))
        return Sealed(input_digest(self._entropy(SALT_BYTES), plain))


class InputOpener:
    """Opens inputs with a recipient's private key: `audit show --key`."""

    def __init__(self, private_pem: bytes) -> None:
        """Takes an X25519 private key in PEM, unencrypted; ConfigError for anything else."""
        try:
            key = load_pem_private_key(private_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError("the key is not an unencrypted private key in PEM.") from error
        if not isinstance(key, X25519PrivateKey):
            raise ConfigError("the key is not an X25519 key; inputs are sealed to X25519 keys.")
        self._key = key
        self._id = _key_id(key.public_key())

    def open(self, sealed: SealedInput, key: DataKey, digest: bytes) -> dict[str, Any]:
        """The input, once it is shown to be the one that the chain names by `digest`.

        Raises:
            NotAllowedError: the key is none of those that this day's inputs were sealed to.
            LedgerBrokenError: the stored input is not the one that was recorded.
        """
        place = f"input of record {sealed.sequence} of gateway instance {sealed.instance_id}"
        wrapped = next((item for item in key.wrapped if item.recipient == self._id), None)
        if wrapped is None:
            raise NotAllowedError(f"{place}: this key is no recipient of it; use the key that {key.day} was sealed to.")
        try:
            secret = _SUITE.decrypt(wrapped.ciphertext, self._key, _WRAP_TAG + key.key_id.encode("ascii"))
            where = _input_tag(sealed.instance_id) + sealed.sequence.to_bytes(8, "big")
            opened = AESGCM(secret).decrypt(sealed.nonce, sealed.ciphertext, where)
            plain = opened[SALT_BYTES:]
            genuine = hmac.compare_digest(input_digest(opened[:SALT_BYTES], plain), digest)
        except (InvalidTag, ValueError, EventInvalidError) as error:
            raise LedgerBrokenError(f"{place} was changed: it does not decrypt.") from error
        if not genuine:
            raise LedgerBrokenError(f"{place} is not the one that the chain names.")
        document: dict[str, Any] = json.loads(plain)
        return document


def _masked(event: Event, key: bytes) -> Mapping[str, Any]:
    """The input with its sensitive values replaced: equal values of one day have equal digests, whatever their name."""
    if not event.sensitive:
        return event.input or {}
    document = dict(event.input or {})
    for member in SENSITIVE_MEMBERS:
        values = document.get(member)
        if isinstance(values, Mapping):
            document[member] = {
                name: {KEYED_DIGEST: _keyed(key, value)} if _named(member, name, event) else value
                for name, value in values.items()
            }
    return document


def _named(member: str, name: str, event: Event) -> bool:
    """Claims have names of their own, which are not those of arguments and parameters."""
    return (f"claims.{name}" if member == "claims" else name) in event.sensitive


def _keyed(key: bytes, value: Any) -> str:
    return hmac.new(key, canonical_input({"v": value}), hashlib.sha256).hexdigest()


def _sensitive_key(secret: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_SENSITIVE_TAG).derive(secret)


def _input_tag(instance_id: str) -> bytes:
    return _INPUT_TAG + ulid_bytes(instance_id)


def _key_id(key: X25519PublicKey) -> bytes:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
