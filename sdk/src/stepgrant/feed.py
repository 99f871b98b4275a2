"""What a resource hears from the gateway: keys, catalog slices, grants that died early, locks, and that the issuer lives.

The bounds are those of `proto/stepgrant/v1/verifier.proto`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant.grant import CHECKPOINT_TAG, KEY_TAG, Binding
from stepgrant.ids import ulid_bytes
from stepgrant.selector import Selector

MAX_AUDIENCES: Final = 64
MAX_KEYS: Final = 64
MAX_KID_CHARACTERS: Final = 64
MAX_JWK_CHARACTERS: Final = 1024
MAX_LOCKS: Final = 1024
MAX_LIFTED: Final = 16_384
MAX_TOOLS: Final = 1024
MAX_CODE_CHARACTERS: Final = 64
MAX_REASON_CHARACTERS: Final = 1024
MAX_REVOKED: Final = 1_000_000
"""Grants that died early and have not run out: 16,000 a second at the longest lifetime of a minute."""

SUPERSEDED: Final = "superseded"
"""`code` of a grant that a renewal took the place of; its step lives on."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AnnouncedKey:
    """A grant-signing key and the SVID that vouches for it; not to be trusted before that is verified."""

    kid: str
    jwk_json: str
    not_after: datetime
    svid_chain: tuple[bytes, ...] = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevokedGrant:
    """A grant that died before its `exp`; to be kept until `expires_at` and LEEWAY more."""

    grant_id: str
    expires_at: datetime
    code: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LockInForce:
    """An operator's immediate deny."""

    lock_id: str
    selector: Selector
    reason: str


@dataclass(frozen=True, slots=True)
class LiftedLock:
    """A lock that is no more: grants issued at or before `refuse_issued_until` stay refused, up to `forget_at`."""

    lock_id: str
    selector: Selector
    refuse_issued_until: datetime
    forget_at: datetime


@dataclass(frozen=True, slots=True)
class ToolSlice:
    """One tool as a resource sees it. `digest` is 32 bytes."""

    tool: str
    digest: bytes
    target_template: str


@dataclass(frozen=True, slots=True)
class CatalogSlice:
    """What the resource of one audience has to know of the catalog."""

    audience: str
    binding: Binding
    tools: tuple[ToolSlice, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement of how long a chain is; not to be trusted before its SVID and signature are verified."""

    instance_id: str
    sequence: int
    hash: bytes
    svid_chain: tuple[bytes, ...] = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The issuer `instance_id` was alive at `at` by its own clock, and its events up to `included_sequence` are in."""

    instance_id: str
    at: datetime
    included_sequence: int
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state at the start of a subscription."""

    keys: tuple[AnnouncedKey, ...]
    revoked: tuple[RevokedGrant, ...]
    locks: tuple[LockInForce, ...]
    lifted: tuple[LiftedLock, ...]
    catalog: tuple[CatalogSlice, ...]
    heartbeat: Heartbeat


FeedItem = Snapshot | AnnouncedKey | RevokedGrant | LockInForce | LiftedLock | CatalogSlice | Heartbeat


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event of one subscription. The snapshot has position 1 and previous position 0."""

    epoch: str
    position: int
    previous_position: int
    item: FeedItem


def unix_ms(time: datetime) -> int:
    """Milliseconds since the Unix epoch, rounded down."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def key_message(kid: str, jwk_json: str, not_after: datetime) -> bytes:
    """What the gateway's SVID signs to vouch for a grant key (`SigningKey.signature` in verifier.proto)."""
    digests = hashlib.sha256(kid.encode("utf-8")).digest() + hashlib.sha256(jwk_json.encode("utf-8")).digest()
    return KEY_TAG + digests + unix_ms(not_after).to_bytes(8, "big")


def checkpoint_message(instance_id: str, sequence: int, chain_hash: bytes) -> bytes:
    """What the gateway's SVID signs for a checkpoint (`Checkpoint.signature` in verifier.proto)."""
    return CHECKPOINT_TAG + ulid_bytes(instance_id) + sequence.to_bytes(8, "big") + chain_hash
