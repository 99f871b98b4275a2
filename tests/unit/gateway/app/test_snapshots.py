"""A gateway's own snapshots: made of what became durable, named in its chain, and what a full fold says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from stepgrant.ids import ulid
from stepgrant_gateway.app.auditing import read_all
from stepgrant_gateway.app.folding import Folded, fold_ledger
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.app.snapshots import AT_STOP, Snapshots
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History
from stepgrant_gateway.core.ledger import decode_event
from stepgrant_gateway.core.ports import SnapshotStore
from stepgrant_gateway.core.snapshot import covered_heads, decode_snapshot, snapshot_digest
from stepgrant_gateway.storage.inputs import DigestSealer
from stepgrant_gateway.storage.memory import MemoryLedger, MemorySnapshots
from tests.kit.chains import counted_entropy
from tests.kit.clock import ManualClock
from tests.kit.work import work

WORK = work(120)


class Written(MemorySnapshots):
    """Snapshots in memory, and an event for each that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.full = False
        self.hangs: threading.Event | None = None
        self.tried = threading.Event()

    def keep(self, snapshot: bytes) -> None:
        self.tried.set()
        if self.hangs is not None:
            self.hangs.wait(60)
        if self.full:
            raise OSError("no space left on device")
        super().keep(snapshot)
        self.count += 1


@asynccontextmanager
async def life(
    store: MemoryLedger, beside: SnapshotStore, every: int, *, number: int = 1
) -> AsyncIterator[tuple[Recorder, Folded]]:
    """One life of a gateway's ledger, from its start to its end in order."""
    clock = ManualClock()
    folded = fold_ledger(store, beside.kept())
    snapshots = Snapshots(beside, folded, every)
    instance = ulid(clock.now(), number.to_bytes(10, "big"))
    recorder = Recorder(store, DigestSealer(counted_entropy()), clock, instance, followed=snapshots.follow)
    await recorder.start()
    snapshots.begin(recorder, clock)
    yield recorder, folded
    await snapshots.close()
    await recorder.close()


def kinds(store: MemoryLedger) -> list[EventType]:
    return [stored.event.type for stored in read_all(store)]


async def record(recorder: Recorder, events: list[Event]) -> None:
    for event in events:
        await recorder.record(event).durable()


async def test_the_next_start_reads_only_what_came_after_and_knows_all() -> None:
    store, beside = MemoryLedger(), Written()
    async with life(store, beside, 25) as (recorder, _):
        await record(recorder, WORK)
    assert kinds(store)[-2:] == [EventType.LEDGER_SNAPSHOT, EventType.GATEWAY_STOPPED]
    assert beside.count >= 120 // 25
    resumed, whole = fold_ledger(store, beside.kept()), fold_ledger(store)
    assert resumed.history == whole.history
    assert resumed.heads == whole.heads
    assert resumed.followed <= 4
    assert whole.followed > 120


async def test_each_snapshot_holds_what_a_fold_of_the_records_before_it_says() -> None:
    store, beside = MemoryLedger(), Written()
    for number in range(1, 4):
        async with life(store, beside, 25, number=number) as (recorder, _):
            await record(recorder, WORK[(number - 1) * 40 : number * 40])
    for data in beside.kept():
        heads = covered_heads(data)
        assert [head.instance_id for head in heads] == [head.instance_id for head in store.heads()][: len(heads)]
        history = History()
        for head in heads:
            for stored in read_all(store):
                if stored.instance_id == head.instance_id and stored.sequence <= head.sequence:
                    history.follow(stored.event)
        history.tidy()
        assert decode_snapshot(data) == history
    named = {
        stored.event.data["sha256"] for stored in read_all(store) if stored.event.type is EventType.LEDGER_SNAPSHOT
    }
    assert {snapshot_digest(data) for data in beside.kept()} <= named


async def test_a_start_that_had_to_fold_much_leaves_a_snapshot_at_once() -> None:
    store, beside = MemoryLedger(), Written()
    async with life(store, MemorySnapshots(), 10_000) as (recorder, _):
        await record(recorder, WORK)
    async with life(store, beside, 100, number=2) as (recorder, _):
        await named(recorder)
        assert beside.count == 1
        assert fold_ledger(store, beside.kept()).followed < 5


async def test_a_stop_after_little_leaves_none() -> None:
    store, beside = MemoryLedger(), Written()
    async with life(store, beside, 10_000) as (recorder, _):
        await record(recorder, WORK)
    assert EventType.LEDGER_SNAPSHOT not in kinds(store)
    assert beside.count == 0


async def test_a_snapshot_that_cannot_be_kept_stops_nothing_and_the_next_one_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, beside = MemoryLedger(), Written()
    beside.full = True
    async with life(store, beside, 25) as (recorder, _):
        await record(recorder, WORK[:60])
        assert await asyncio.to_thread(beside.tried.wait, 20)
        beside.full = False
        await record(recorder, WORK[60:])
    assert fold_ledger(store, beside.kept()).history == fold_ledger(store).history
    assert beside.count
    assert "could not be made" in caplog.text


async def test_a_stop_does_not_wait_for_a_disk_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    store, beside, free = MemoryLedger(), Written(), threading.Event()
    beside.hangs = free
    clock = ManualClock()
    snapshots = Snapshots(beside, fold_ledger(store), 25)
    recorder = Recorder(
        store, DigestSealer(counted_entropy()), clock, ulid(clock.now(), bytes(10)), followed=snapshots.follow
    )
    await recorder.start()
    snapshots.begin(recorder, clock)
    await record(recorder, WORK)
    assert await asyncio.to_thread(beside.tried.wait, 20)
    closing = asyncio.create_task(snapshots.close())
    try:
        async with asyncio.timeout(10):
            while clock.advance(AT_STOP) is None and not closing.done():
                await asyncio.wait({closing}, timeout=0.01)
    finally:
        free.set()
    assert "not there in time" in caplog.text
    await recorder.close()


async def test_an_event_that_cannot_be_folded_leaves_no_snapshot_any_more() -> None:
    """A state that lacks an event must never be what a start begins with."""
    store, beside = MemoryLedger(), Written()
    async with life(store, beside, 10) as (recorder, _):
        await recorder.record(Event(EventType.LOCK_SET, WORK[0].at, {"no": "lock"})).durable()
        await record(recorder, WORK[:60])
    assert beside.count == 0


async def test_only_what_became_durable_is_in_a_snapshot() -> None:
    """INV-03, for what is too large for a record among others in the same group."""
    store, beside = MemoryLedger(), Written()
    async with life(store, beside, 1) as (recorder, _):
        large = Event(EventType.LOCK_SET, WORK[0].at, {**LOCK, "reason": "x" * 70_000})
        receipts = [
            recorder.record(large),
            recorder.record(Event(EventType.LOCK_SET, WORK[0].at, {**LOCK, "lock": "b"})),
        ]
        await receipts[1].durable()
    assert list(decode_snapshot(next(beside.kept())).locks) == ["b"]


LOCK = {
    "lock": "a",
    "selector": {"workload": None, "task_type": None, "tool": "mail.*", "target": None},
    "reason": "an incident",
    "by": "spiffe://a/operator",
}


async def named(recorder: Recorder) -> None:
    """Returns when a snapshot is on record."""
    async with asyncio.timeout(20):
        async for found in recorder.tail(0, follow=True):
            if decode_event(found.body).type is EventType.LEDGER_SNAPSHOT:
                return


def test_snapshots_in_memory_are_the_newest_two() -> None:
    beside = MemorySnapshots()
    for number in range(3):
        beside.keep(b"%d" % number)
    found: Iterator[bytes] = beside.kept()
    assert list(found) == [b"2", b"1"]
