"""What an observer hears of the application: each decision once with its stages, ends, redemptions, the feed, the ledger."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from stepgrant.ids import ulid
from stepgrant_gateway.app.feed import MAX_BACKLOG
from stepgrant_gateway.core.boundary import Outcome, ReportStep
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.observations import Boundary, Count, Timing
from stepgrant_gateway.core.revocation import RevokedGrant
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import AGENT, ORDERS, heart

ORDER = {"order_id": "ord_00000042"}


async def test_each_decision_is_heard_once_with_its_boundary_its_code_and_its_stages():
    async with heart() as built:
        lease = await built.open()
        intent = built.intent("orders.get", ORDER)
        granted = await lease.declare(intent)
        await lease.declare(intent)  # the same again is no decision
        await lease.renew(granted.step_id)
        await lease.declare(built.intent("orders.refund", {"order_id": "ord_00000043", "amount": 4}))
        await lease.declare(built.intent("orders.nothing", {}))

    heard = [(course.boundary, code, course.tool) for course, code, _ in built.heard.decisions]
    assert heard == [
        (Boundary.OPEN, "", ""),
        (Boundary.DECLARE, "", "orders.get"),
        (Boundary.RENEW, "", "orders.get"),
        (Boundary.DECLARE, "no_permit", "orders.refund"),
        (Boundary.DECLARE, "no_permit", ""),
    ]
    course, _, answered = built.heard.decisions[1]
    assert course.decided is not None
    assert course.recorded is not None
    assert course.began <= course.decided <= course.recorded <= answered
    assert (course.task_id, course.step_id) == (lease.opened.task_id, granted.step_id)


async def test_an_observer_that_fails_costs_the_answer_that_it_saw_and_nobody_elses(monkeypatch):
    async with heart() as built:
        lease = await built.open()
        fails = iter([True])
        heard = built.heard.decided

        def decided(*seen: object) -> None:
            if next(fails, False):
                raise RuntimeError("an exporter fell over")
            heard(*seen)

        monkeypatch.setattr(built.heard, "decided", decided)
        # Both in one group of the ledger: the second is heard of after the first.
        first, second = (lease.declare(built.intent("orders.get", ORDER)) for _ in range(2))
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="exporter"):
                await first
            assert (await second).token


async def test_a_grants_end_is_counted_by_its_code_and_how_long_it_was_held():
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        built.clock.advance(timedelta(seconds=7))
        lease.report(ReportStep(step.step_id, Outcome.COMPLETED, None, ""))

    assert built.heard.counts[Count.GRANT_ENDED, "completed"] == 1
    assert built.heard.counts[Count.GRANT_HELD_SECONDS, ""] == pytest.approx(7)


async def test_redemptions_are_counted_by_their_answer():
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)

        async def redeem() -> None:
            await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, ulid(built.clock.now(), built.entropy(10)))

        store.refuse = True
        with pytest.raises(UnrecordedError):
            await built.while_time_passes(redeem())
        store.refuse = False
        await redeem()
        await redeem()

    counts = {label: number for (what, label), number in built.heard.counts.items() if what is Count.REDEMPTION}
    assert counts == {"unrecorded": 1, "accepted": 1, "used_up": 1}
    assert built.heard.counts[Count.LEDGER_FAILURE, "failed"] >= 1
    assert {what for what, _ in built.heard.times} == {Timing.LEDGER_APPEND}


async def test_a_reader_that_is_cut_off_is_counted_once():
    async with heart() as built:
        subscription = built.feed.subscribe(ORDERS, [ORDERS])
        for number in range(MAX_BACKLOG + 5):
            built.feed.publish(
                RevokedGrant(
                    f"{number:026}", ORDERS, built.clock.now() + timedelta(hours=1), "locked", built.clock.now()
                )
            )
        assert built.feed.subscribers == 0
        assert subscription.over

    assert built.heard.counts[Count.FEED_CUT_OFF, "slow"] == 1


async def test_reloads_are_counted_by_their_result(tmp_path):
    async with heart() as built:
        await built.operating.reload_policy(AGENT)
        built.operating._source = _Broken()
        await built.operating.reload_policy(AGENT)

    assert built.heard.counts[Count.RELOAD, "activated"] == 1
    assert built.heard.counts[Count.RELOAD, "refused"] == 1


class _Broken:
    def load(self) -> None:
        from stepgrant_gateway.core.errors import PolicyRefusedError

        raise PolicyRefusedError(())
