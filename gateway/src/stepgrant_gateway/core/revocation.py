"""What the feed says: keys, catalog slices, grants that died early, locks, and that the issuer is alive.

What both sides know alike is `stepgrant.feed`'s; here stands what only the gateway knows more of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stepgrant.feed import AnnouncedKey, CatalogSlice, Checkpoint, Heartbeat, LiftedLock, ToolSlice
from stepgrant.selector import Selector

__all__ = [
    "AnnouncedKey",
    "CatalogSlice",
    "Checkpoint",
    "FeedEvent",
    "FeedItem",
    "Heartbeat",
    "LiftedLock",
    "Lock",
    "RevokedGrant",
    "Snapshot",
    "ToolSlice",
]


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
