"""What the feed says: keys, catalog slices, grants that died early, locks, and that the issuer is alive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stepgrant.grant import Binding
from stepgrant.selector import Selector


@dataclass(frozen=True, slots=True)
class RevokedGrant:
    """A grant that died before its `exp`; forgotten after `expires_at` and LEEWAY."""

    grant_id: str
    audience: str
    expires_at: datetime
    code: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Lock:
    """An operator's immediate deny, in force."""

    lock_id: str
    selector: Selector
    reason: str
    issued_at: datetime
    issued_by: str


@dataclass(frozen=True, slots=True)
class LiftedLock:
    """A lock that is no more; grants issued at or before `refuse_issued_until` stay refused until `forget_at`."""

    lock_id: str
    selector: Selector
    refuse_issued_until: datetime
    forget_at: datetime


@dataclass(frozen=True, slots=True)
class AnnouncedKey:
    """A grant-signing key vouched for by the gateway's SVID: see `SigningKey` in verifier.proto for what is signed."""

    kid: str
    jwk_json: str
    not_after: datetime
    svid_chain: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class ToolSlice:
    """One tool as a resource sees it. `digest` is 32 bytes."""

    name: str
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
    """A signed statement of how long a chain is: see `Checkpoint` in verifier.proto for what is signed."""

    instance_id: str
    sequence: int
    hash: bytes
    svid_chain: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The issuer was alive at `at`, and ledger events up to `included_sequence` are included."""

    instance_id: str
    at: datetime
    included_sequence: int
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state at the start of a subscription."""

    keys: tuple[AnnouncedKey, ...]
    revoked: tuple[RevokedGrant, ...]
    locks: tuple[Lock, ...]
    lifted: tuple[LiftedLock, ...]
    catalog: tuple[CatalogSlice, ...]
    heartbeat: Heartbeat


FeedItem = Snapshot | AnnouncedKey | RevokedGrant | Lock | LiftedLock | CatalogSlice | Heartbeat


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event of one subscription: `epoch` is the subscription's ULID; the snapshot has position 1 and previous 0."""

    epoch: str
    position: int
    previous_position: int
    item: FeedItem
