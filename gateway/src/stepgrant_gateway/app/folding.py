"""Folding at start: from the newest snapshot that the chain vouches for, else from the first record on (ADR 0016)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from stepgrant_gateway.app.auditing import read_all
from stepgrant_gateway.core.errors import SnapshotError
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.history import History
from stepgrant_gateway.core.ledger import ChainHead, record_hash
from stepgrant_gateway.core.ports import LedgerReading
from stepgrant_gateway.core.snapshot import covered_heads, decode_snapshot, snapshot_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Folded:
    """The state after all records up to `heads`. `followed`: events that had to be read for it."""

    heads: tuple[ChainHead, ...]
    history: History
    followed: int


def fold_ledger(store: LedgerReading, snapshots: Iterable[bytes] = (), now: datetime | None = None) -> Folded:
    """What the ledger holds, folded; blocking. `snapshots` are tried in their order, the newest first.

    With `now`, what was recorded while the clock was ahead of it makes no label old (ADR 17).

    Raises:
        LedgerBrokenError: what was read of the ledger does not verify.
    """
    heads = tuple(store.heads())
    for data in snapshots:
        try:
            return _resumed(store, heads, data, now)
        except SnapshotError as error:
            logger.warning(
                "A snapshot of the ledger is not believed: %s. An older one, or all records, are read.", error
            )
    history, followed = History(), 0
    for stored in read_all(store):
        history.follow(stored.event)
        followed += 1
    history.tidy(now)
    return Folded(heads, history, followed)


def _resumed(store: LedgerReading, heads: tuple[ChainHead, ...], data: bytes, now: datetime | None) -> Folded:
    # 1. It says which records it covers; nothing else of it is read before it is believed.
    covered = covered_heads(data)
    # 2. The chains that it covers are the first of those that are there, so that nothing was put between.
    if [head.instance_id for head in covered] != [head.instance_id for head in heads[: len(covered)]]:
        raise SnapshotError("it covers other chains than those that are there")
    # 3. Each of them holds, at that place, the record that it covers last; the hash is that of the stored bytes.
    for head in covered:
        _require_record(store, head)
    # 4. All that was recorded later verifies, from those records on, with what later chains remember of earlier ones.
    digest, named = snapshot_digest(data), False
    later = []
    for stored in read_all(store, after=covered):
        later.append(stored.event)
        named = named or (stored.event.type is EventType.LEDGER_SNAPSHOT and stored.event.data.get("sha256") == digest)
    # 5. Among that is the record that names this very snapshot.
    if not named:
        raise SnapshotError("no record names its digest; the gateway may have ended before it was recorded")
    # 6. Only now it is read. By a clock that was ahead it has dropped labels that are not old.
    history = decode_snapshot(data)
    if now is not None and history.latest is not None and history.latest > now:
        raise SnapshotError("it was made when the clock was ahead of now")
    # 7. What came later is folded onto it.
    for event in later:
        history.follow(event)
    history.tidy(now)
    return Folded(heads, history, len(later))


def _require_record(store: LedgerReading, head: ChainHead) -> None:
    for record in store.read(head.instance_id, head.sequence - 1, 1):
        same = (record.sequence, record.hash) == (head.sequence, head.hash)
        if same and record_hash(record.instance_id, record.sequence, record.previous_hash, record.body) == record.hash:
            return
    raise SnapshotError(f"record {head.sequence} of gateway instance {head.instance_id} is not the one that it covers")
