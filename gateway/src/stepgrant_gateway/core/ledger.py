"""The ledger's chain: what a record is, how its hash is made, and how a chain is verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from stepgrant.ids import ulid_bytes

LEDGER_TAG: Final = b"stepgrant.ledger.v1\0"
GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is stored. `body` is the event's bytes, hashed as they are and never re-serialised."""

    instance_id: str
    sequence: int
    previous_hash: bytes
    hash: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class SealedInput:
    """The input of one event, encrypted. `salt` is 32 bytes; `key_id` names the daily data key."""

    instance_id: str
    sequence: int
    salt: bytes
    key_id: str
    nonce: bytes
    ciphertext: bytes


def record_hash(instance_id: str, sequence: int, previous_hash: bytes, body: bytes) -> bytes:
    """SHA-256(tag, instance (16 bytes), sequence (u64), previous hash (32 bytes), body): 32 bytes (design 7)."""
    head = LEDGER_TAG + ulid_bytes(instance_id) + sequence.to_bytes(8, "big") + previous_hash
    return hashlib.sha256(head + body).digest()
