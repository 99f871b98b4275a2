"""DS-09: what a gateway keeps does not grow with what it has done."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepgrant.errors import Denial
from stepgrant.ids import ulid
from stepgrant.selector import Selector
from stepgrant_gateway.app.open_tasks import Step
from stepgrant_gateway.core.boundary import Outcome, ReportStep
from tests.kit.heart import ORDERS, Heart, heart
from tests.kit.kept import kept

ORDER = {"order_id": "ord_00000042"}
ROUNDS = 100
APART = timedelta(seconds=10)
"""So that these rounds take longer than a task may live, and any grant."""
GROWING = {"store", "heard", "clock", "pushed"}
"""The ledger is there to grow; the observer and the clock are the test's."""


async def work(built: Heart, rounds: int) -> None:
    """Tasks that read, renew, are denied, locked and lost; the clock goes on, and the heart beats."""
    for number in range(rounds):
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        redemption = ulid(built.clock.now(), built.entropy(10))
        assert (await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, redemption)).accepted
        await built.redeeming.attest(ORDERS, ORDERS, step.grant_id, Outcome.COMPLETED, None)
        lease.report(ReportStep(step.step_id, Outcome.COMPLETED, None, ""))
        renewed = await built.granted(lease, "orders.search", {"query": "jo"})
        await lease.renew(renewed.step_id)
        assert isinstance(await lease.declare(built.intent("mail.send", {})), Denial)
        if number % 4 == 0:
            locked = await built.operating.set_lock(Selector(tool="orders.search"), "a test", "an operator")
            await built.operating.lift_lock(locked.lock.lock_id, "a test", "an operator")
        if number % 4 == 1:
            lease.lost("stream_lost", "the stream ended.")
        else:
            lease.close(Outcome.COMPLETED)
        built.pushed.clear()
        built.clock.advance(APART)
        built.feed.heartbeat()
        built.state.tidy(built.clock.now())


@pytest.mark.slow
async def test_ds_09_what_the_application_keeps_does_not_grow_with_its_work() -> None:
    async with heart() as built:
        # What a policy set has found out it keeps for so many questions, whoever asked them.
        without = (*(getattr(built, name) for name in GROWING), built.state.policy)
        roots = [value for name, value in vars(built).items() if name not in GROWING]
        await work(built, ROUNDS)
        first = kept(roots, without)
        await work(built, 2 * ROUNDS)

        assert kept(roots, without) == first
        assert first[f"{Step.__module__}.{Step.__qualname__}"] > 0
