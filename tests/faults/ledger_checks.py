"""What a ledger must hold after a crash, held against what clients were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from stepgrant_gateway.app.auditing import read_all, verify_ledger
from stepgrant_gateway.app.folding import fold_ledger
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.core.ledger import ChainHead, StoredEvent
from stepgrant_gateway.storage.snapshots import SnapshotFiles
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader
from tests.faults.load import Told

WHOLE: Final = 50
ISSUED = frozenset({EventType.STEP_GRANTED, EventType.STEP_RENEWED})


def read_ledger(path: Path) -> list[StoredEvent]:
    """Every event, once every chain has verified."""
    with closing(SqliteLedgerReader(path)) as reader:
        verify_ledger(reader)
        return list(read_all(reader))


class GrowingLedger:
    """One ledger that is read again and again while it grows: each record is verified once, and each WHOLE-th time all are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._heads: dict[str, ChainHead] = {}
        self._times = 0
        self.events: list[StoredEvent] = []
        self.spared = 0
        """records that starts did not have to read for a snapshot"""

    def read(self) -> list[StoredEvent]:
        """All events, in the order of their recording."""
        with closing(SqliteLedgerReader(self._path)) as reader:
            self._times += 1
            if self._times % WHOLE == 0:
                verify_ledger(reader)
            found = list(read_all(reader, after=self._heads.values()))
            for stored in found:
                self._heads[stored.instance_id] = ChainHead(stored.instance_id, stored.sequence, b"")
            for instance_id in {stored.instance_id for stored in found}:
                (last,) = reader.read(instance_id, self._heads[instance_id].sequence - 1, 1)
                self._heads[instance_id] = ChainHead(instance_id, last.sequence, last.hash)
        self.events += found
        return self.events

    def check_snapshots(self) -> None:
        """A start from the snapshots that lie there knows what a start without them would; nobody writes meanwhile."""
        events = self.read()
        with closing(SqliteLedgerReader(self._path)) as reader:
            folded = fold_ledger(reader, SnapshotFiles(self._path).kept())
        assert folded.history == fold(stored.event for stored in events)
        self.spared += len(events) - folded.followed


def check_told(events: Sequence[StoredEvent], told: Told) -> None:
    """INV-03: whatever a client was told is on record; INV-08: and no use was taken twice."""
    by_type: dict[EventType, list[StoredEvent]] = {}
    for stored in events:
        by_type.setdefault(stored.event.type, []).append(stored)
    issued = {
        stored.event.data["grant"]: (stored.event.data["task"], stored.event.data["step"])
        for stored in events
        if stored.event.type in ISSUED
    }
    unrecorded = {grant: step for grant, step in told.grants.items() if issued.get(grant) != step}
    assert not unrecorded, "grants that a client has and the ledger has not"

    taken = [stored.event.data for stored in by_type.get(EventType.GRANT_REDEEMED, ())]
    assert told.redeemed.items() <= {item["redemption"]: item["grant"] for item in taken}.items()
    assert all(count == 1 for count in Counter(item["redemption"] for item in taken).values())
    assert all(count == 1 for count in Counter((item["task"], item["step"]) for item in taken).values())

    set_ = {stored.event.data["lock"] for stored in by_type.get(EventType.LOCK_SET, ())}
    lifted = {stored.event.data["lock"] for stored in by_type.get(EventType.LOCK_LIFTED, ())}
    assert set_ >= told.locked.keys() | told.lifted
    assert lifted >= told.lifted
    assert not lifted & (told.locked.keys() - told.doubtful), "lifted without anybody having asked"


def check_former_lives(events: Sequence[StoredEvent], instance_id: str) -> None:
    """INV-05: each step and task of the lives before `instance_id` has ended, on record, exactly once."""
    began: dict[tuple[str, ...], str] = {}
    ends: dict[tuple[str, ...], list[StoredEvent]] = {}
    for stored in events:
        data = stored.event.data
        match stored.event.type:
            case EventType.STEP_GRANTED:
                key: tuple[str, ...] = (data["task"], data["step"])
                assert key not in began, "a step that was granted twice"
                began[key] = stored.instance_id
            case EventType.TASK_OPENED:
                began[(data["task"],)] = stored.instance_id
            case EventType.STEP_ENDED:
                ends.setdefault((data["task"], data["step"]), []).append(stored)
            case EventType.TASK_CLOSED:
                ends.setdefault((data["task"],), []).append(stored)
            case _:
                pass
    for key, life in began.items():
        if life == instance_id:
            continue
        found = ends.get(key, [])
        assert len(found) == 1, f"{key} has {len(found)} ends on record"
        if found[0].instance_id != life:
            assert found[0].event.data["code"] == "gateway_gone"
            assert found[0].event.data.get("state", "abandoned") == "abandoned"
