"""No record, no grant; ends do not wait for the ledger and are not lost by it (INV-03)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from stepgrant_gateway.app.checkpoints import CHECKPOINT_EVENTS, CHECKPOINT_SPAN
from stepgrant_gateway.app.receipts import PendingReceipt
from stepgrant_gateway.app.recording import (
    BOUND,
    FIRST_RETRY,
    GATHERING,
    MAX_WAITING_BATCHES,
)
from stepgrant_gateway.core.chain import checkpoint_message, verify_chain
from stepgrant_gateway.core.errors import LedgerBrokenError, UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import decode_event
from tests.kit.chains import INSTANCE, TASK, chain_of, ended, granted, started
from tests.kit.clock import START
from tests.kit.recorder import Bench


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.recorder.start()
    yield bench
    bench.store.free.set()
    bench.recorder._stop("the test is over")


GRANTED, ENDED = "step.granted", "step.ended"


async def test_a_receipt_is_kept_once_its_batch_is_durable_and_not_before(bench):
    bench.store.block()
    receipt = bench.recorder.record(granted(1), ended(1))
    await bench.begun()
    assert not receipt.done()
    assert bench.recorder.position == 1
    bench.store.free.set()
    assert await bench.answered(receipt) == 3
    assert receipt.done()
    assert bench.recorder.position == 3
    assert bench.stored() == ["gateway.started", GRANTED, ENDED]


@pytest.mark.parametrize("fate", ["durable", "late", "closed"])
async def test_whoever_hears_what_became_of_a_record_may_record_more_in_that_breath(bench, fate):
    """Nothing of it is lost or out of order, also where the ledger has given up."""
    later: list[PendingReceipt] = []
    bench.store.block()
    for number in (1, 2):
        bench.recorder.record(granted(number)).then(lambda _: later.append(bench.recorder.record_end(ended(1))))
    await bench.begun()
    if fate == "late":
        bench.clock.advance(BOUND)
    if fate == "closed":
        bench.recorder._stop("closed")
    bench.store.free.set()

    answers = [await bench.answered(item) for item in [bench.recorder.record(granted(3)), *later]]
    if fate == "closed":
        assert answers == ["unrecorded"] * 3
    else:
        third = await bench.answered(bench.recorder.record(granted(4)))
        assert len(later) == 2
        stored = bench.stored()
        assert stored.count(ENDED) == 2
        assert isinstance(third, int)
        assert len(stored) == third


async def test_inv_03_a_store_that_hangs_makes_the_receipt_fail_at_the_bound_not_hang(bench):
    bench.store.block()
    receipt = bench.recorder.record(granted(1))
    waiting = asyncio.ensure_future(receipt.durable())
    await bench.begun()
    bench.clock.advance(BOUND - timedelta(milliseconds=1))
    await asyncio.sleep(0)
    assert not waiting.done()
    bench.clock.advance(timedelta(milliseconds=1))
    with pytest.raises(UnrecordedError, match="within 2 s"):
        await asyncio.wait_for(waiting, 5)


async def test_inv_03_a_store_that_refuses_makes_the_receipt_fail_and_nothing_is_recorded(bench):
    bench.store.refuse = True
    assert await bench.answered(bench.recorder.record(granted(1))) == "unrecorded"
    bench.store.refuse = False
    assert await bench.answered(bench.recorder.record(granted(2))) == 2
    assert len(bench.stored()) == 2


async def test_inv_03_what_waited_behind_a_hanging_append_past_its_bound_never_becomes_durable(bench):
    bench.store.block()
    first = bench.recorder.record(granted(1))
    await bench.begun()
    second = bench.recorder.record(granted(2))
    bench.clock.advance(BOUND)
    third = bench.recorder.record(granted(3))
    bench.store.free.set()
    assert [await bench.answered(item) for item in (first, second, third)] == ["unrecorded", "unrecorded", 3]
    assert [step for _, step in bench.said()] == [granted(1).data["step"], granted(3).data["step"]]


async def test_inv_03_a_task_that_became_durable_after_its_receipt_failed_is_closed_before_anything_else(bench):
    bench.store.block()
    opened = bench.recorder.record(Event(EventType.TASK_OPENED, START, {"task": TASK}))
    await bench.begun()
    bench.clock.advance(BOUND)
    later = bench.recorder.record(granted(1))
    bench.store.free.set()
    assert await bench.answered(opened) == "unrecorded"
    assert await bench.answered(later) == 4
    assert bench.stored() == ["gateway.started", "task.opened", "task.closed", GRANTED]
    assert decode_event(bench.store.read(INSTANCE, 2, 1)[0].body).data["code"] == "undelivered"


async def test_an_append_whose_answer_was_lost_keeps_the_receipt(bench):
    bench.store.lose_answer = True
    assert await bench.answered(bench.recorder.record(granted(1))) == 2


@pytest.mark.parametrize("stored", [True, False])
async def test_inv_03_while_nobody_knows_what_is_durable_nothing_is_written_and_then_the_truth_decides(bench, stored):
    bench.store.mute, bench.store.lose_answer, bench.store.refuse = True, stored, not stored
    receipt = bench.recorder.record(granted(1))
    await bench.until(2)
    behind = bench.recorder.record(granted(2))
    await bench.until(2)
    assert not receipt.done()
    bench.store.mute = bench.store.lose_answer = bench.store.refuse = False
    bench.clock.advance(FIRST_RETRY)
    assert await bench.answered(receipt) == (2 if stored else "unrecorded")
    assert await bench.answered(behind) == (3 if stored else 2)


async def test_inv_03_an_end_that_cannot_be_recorded_is_tried_again_until_it_can(bench):
    bench.store.refuse = True
    end = bench.recorder.record_end(ended(1))
    bench.clock.advance(GATHERING)
    await bench.until(2)
    for tries in range(3, 6):
        bench.clock.advance(FIRST_RETRY * 2 ** (tries - 3))
        await bench.until(tries)
    assert not end.done()
    bench.store.refuse = False
    bench.clock.advance(FIRST_RETRY * 8)
    assert await bench.answered(end) == 2
    assert bench.stored() == ["gateway.started", ENDED]


async def test_inv_03_while_an_end_is_not_recorded_nothing_new_is_granted_and_the_end_comes_first(bench):
    bench.store.refuse = True
    end = bench.recorder.record_end(ended(1))
    bench.clock.advance(GATHERING)
    await bench.until(2)
    grant = bench.recorder.record(granted(2))
    bench.store.refuse = False
    await bench.until(2)  # nothing is written before the end is tried again
    bench.clock.advance(FIRST_RETRY)
    assert await bench.answered(end) == 2
    assert await bench.answered(grant) == 3


async def test_inv_03_the_receipt_of_an_end_says_at_the_bound_that_it_is_in_force_and_it_is_recorded_later(bench):
    bench.store.block()
    end = bench.recorder.record_end(ended(1))
    bench.clock.advance(GATHERING)
    grant = bench.recorder.record(granted(2))
    await bench.begun()
    bench.clock.advance(BOUND)
    with pytest.raises(UnrecordedError, match="in force, not yet recorded"):
        await end.durable()
    assert await bench.answered(grant) == "unrecorded"
    bench.store.free.set()
    await bench.until(2)
    assert end.done()
    assert await bench.answered(end) == 2
    assert bench.stored() == ["gateway.started", ENDED]


async def test_inv_03_ends_in_a_group_that_failed_are_kept_and_grants_of_it_are_not(bench):
    bench.store.block()
    first = bench.recorder.record_end(ended(1))
    bench.clock.advance(GATHERING)
    await bench.begun()
    mixed = [bench.recorder.record(granted(2)), bench.recorder.record_end(ended(3)), bench.recorder.record(granted(4))]
    bench.store.refused = frozenset({3})
    bench.store.free.set()
    await bench.answered(first)
    await bench.until(3)
    assert [await bench.answered(item) for item in (mixed[0], mixed[2])] == ["unrecorded", "unrecorded"]
    last = bench.recorder.record_end(ended(5))
    bench.clock.advance(FIRST_RETRY)
    assert await bench.answered(mixed[1]) == 3
    assert await bench.answered(last) == 4


async def test_ends_that_nobody_waits_for_share_a_commit(bench):
    ends = [bench.recorder.record_end(ended(number)) for number in range(1, 4)]
    await bench.until(1)
    bench.clock.advance(GATHERING)
    await bench.until(2)
    assert all(end.done() for end in ends)
    assert bench.store.appends == [1, 3]


async def test_whoever_waits_and_whatever_is_new_takes_the_ends_along_at_once(bench):
    bench.recorder.record_end(ended(1))
    assert await bench.answered(bench.recorder.record(granted(2))) == 3
    bench.recorder.record_end(ended(3))
    assert await bench.answered(bench.recorder.record_end(ended(4))) == 5
    assert bench.store.appends == [1, 2, 2]


async def test_while_one_group_is_committed_the_next_one_gathers_in_order(bench):
    bench.store.block()
    receipts = [bench.recorder.record(granted(number)) for number in range(1, 6)]
    await bench.begun()
    bench.store.free.set()
    assert [await bench.answered(item) for item in receipts] == [2, 3, 4, 5, 6]
    assert bench.store.appends == [1, 1, 4]
    assert verify_chain(INSTANCE, bench.store.read(INSTANCE, 0, 10)).events == 6


async def test_too_much_that_waits_is_refused_at_once_but_ends_are_taken(bench):
    bench.store.block()
    bench.recorder.record(granted(1))
    await bench.begun()
    waiting = [bench.recorder.record(granted(2)) for _ in range(MAX_WAITING_BATCHES)]
    refused, end = bench.recorder.record(granted(3)), bench.recorder.record_end(ended(1))
    with pytest.raises(UnrecordedError, match="too much waits"):
        await refused.durable()
    bench.store.free.set()
    assert await bench.answered(end) == MAX_WAITING_BATCHES + 3
    assert waiting[-1].done()


async def test_an_event_that_cannot_be_stored_fails_its_receipt_only(bench):
    bad = bench.recorder.record(Event(EventType.STEP_DENIED, START, {"x": 1.5}))
    assert await bench.answered(bad) == "unrecorded"
    assert await bench.answered(bench.recorder.record(granted(1))) == 2


async def test_inv_03_an_end_that_cannot_be_stored_closes_the_ledger_for_good(bench):
    bad = bench.recorder.record_end(Event(EventType.STEP_ENDED, START, {"x": 1.5}))
    assert await bench.answered(bad) == "unrecorded"
    assert await bench.answered(bench.recorder.record(granted(1))) == "unrecorded"


async def test_inv_14_a_chain_that_somebody_else_went_on_with_closes_the_ledger_for_good(bench):
    bench.store.inner.append(chain_of(ended(9), after=bench.recorder.head), [])
    assert await bench.answered(bench.recorder.record(granted(1))) == "unrecorded"
    assert await bench.answered(bench.recorder.record(granted(2))) == "unrecorded"
    assert len(bench.stored()) == 2


async def test_before_its_start_and_after_its_close_nothing_is_recorded():
    bench = Bench()
    assert await bench.answered(bench.recorder.record(granted(1))) == "unrecorded"
    assert await bench.answered(bench.recorder.record_end(ended(1))) == "unrecorded"
    await bench.recorder.start({"version": "1"})
    end = bench.recorder.record_end(ended(1))
    await asyncio.wait_for(bench.recorder.close(), 5)
    assert end.done()
    assert await bench.answered(bench.recorder.record(granted(1))) == "unrecorded"
    assert bench.stored() == ["gateway.started", ENDED, "gateway.stopped"]
    await bench.recorder.close()


async def test_closing_does_not_wait_longer_than_the_bound():
    bench = Bench()
    await bench.recorder.start()
    bench.store.block()
    closing = asyncio.ensure_future(bench.recorder.close())
    await bench.begun()
    bench.clock.advance(BOUND)
    await asyncio.wait_for(closing, 5)
    bench.store.free.set()


async def test_a_start_that_cannot_be_recorded_fails_and_nothing_else_becomes_the_first_event():
    bench = Bench()
    bench.store.refuse = True
    with pytest.raises(UnrecordedError):
        await asyncio.wait_for(bench.recorder.start(), 5)
    bench.store.refuse = False
    assert await bench.answered(bench.recorder.record(granted(1))) == "unrecorded"
    assert bench.stored() == []


async def test_a_start_on_a_store_that_is_broken_says_so():
    bench = Bench()
    bench.store.inner.append(chain_of(started()), [])
    with pytest.raises(LedgerBrokenError):
        await asyncio.wait_for(bench.recorder.start(), 5)


async def test_the_latest_time_of_all_chains_is_known_so_that_a_clock_behind_it_does_not_mint(bench):
    assert bench.recorder.latest_at == START
    later = START + timedelta(hours=1)
    await bench.answered(bench.recorder.record(granted(1, at=later)))
    await bench.answered(bench.recorder.record(granted(2)))
    assert bench.recorder.latest_at == later


async def test_checkpoints_are_signed_when_due_and_never_go_back(bench):
    first = bench.recorder.checkpoint()
    assert first is not None
    assert (first.sequence, bench.signed) == (1, [checkpoint_message(bench.recorder.head)])
    await bench.answered(bench.recorder.record(granted(1)))
    assert bench.recorder.checkpoint() is first
    bench.clock.advance(CHECKPOINT_SPAN)
    second = bench.recorder.checkpoint()
    assert second is not None
    assert (second.sequence, second.hash) == (2, bench.recorder.head.hash)
    bench.clock.advance(CHECKPOINT_SPAN)
    assert bench.recorder.checkpoint() == second
    # Signed anew all the same: INV-11, the SVID of before expires, and who begins to watch then must verify it.
    assert len(bench.signed) == 3
    await bench.answered(bench.recorder.record(*(ended(number) for number in range(CHECKPOINT_EVENTS))))
    third = bench.recorder.checkpoint()
    assert third is not None
    assert third.sequence == CHECKPOINT_EVENTS + 2
