"""Redemption and attestation."""

import asyncio

import pytest

from stepgrant.ids import ulid
from stepgrant_gateway.core.boundary import Outcome, ReportStep
from stepgrant_gateway.core.errors import NotAllowedError, UnrecordedError
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import MAIL, MAIL_AUDIENCE, ORDERS, heart

ORDER = {"order_id": "ord_00000042"}


def redemption(built) -> str:
    return ulid(built.clock.now(), built.entropy(10))


async def test_id_14_of_many_redemptions_of_one_use_exactly_one_is_accepted() -> None:
    """INV-08."""
    async with heart() as built:
        step = await built.granted(await built.open(), "orders.get", ORDER)
        ids = [redemption(built) for _ in range(64)]
        answers = await asyncio.gather(*(built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, one) for one in ids))
        assert sum(answer.accepted for answer in answers) == 1
        assert {answer.code for answer in answers if not answer.accepted} == {"used_up"}


async def test_the_same_redemption_id_gets_the_same_answer() -> None:
    async with heart() as built:
        step = await built.granted(await built.open(), "orders.get", ORDER)
        one = redemption(built)
        first, again = await asyncio.gather(
            built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, one),
            built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, one),
        )
        assert first == again == await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, one)
        assert first.accepted


async def test_only_a_verifier_of_the_audience_may_redeem_and_only_its_own_grants() -> None:
    async with heart() as built:
        step = await built.granted(await built.open(), "orders.get", ORDER)
        with pytest.raises(NotAllowedError, match="verifiers"):
            await built.redeeming.redeem(MAIL, ORDERS, step.grant_id, redemption(built))
        answer = await built.redeeming.redeem(MAIL, MAIL_AUDIENCE, step.grant_id, redemption(built))
        assert (answer.accepted, answer.code) == (False, "unknown_grant")


async def test_a_superseded_or_ended_grant_has_no_uses() -> None:
    """INV-05 and INV-06."""
    async with heart() as built:
        lease = await built.open()
        first = await built.granted(lease, "orders.get", ORDER)
        second = await lease.renew(first.step_id)
        old = await built.redeeming.redeem(ORDERS, ORDERS, first.grant_id, redemption(built))
        assert (old.accepted, old.code) == (False, "superseded")
        lease.lost("stream_lost", "the stream ended.")
        ended = await built.redeeming.redeem(ORDERS, ORDERS, second.grant_id, redemption(built))
        assert (ended.accepted, ended.code) == (False, "revoked")


async def test_a_use_that_cannot_be_recorded_is_not_taken() -> None:
    """INV-03."""
    store = FaultyStore()
    async with heart(store) as built:
        step = await built.granted(await built.open(), "orders.get", ORDER)
        store.refuse = True
        with pytest.raises(UnrecordedError):
            await built.while_time_passes(built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, redemption(built)))
        assert built.state.grants[step.grant_id].uses_left == 1


async def test_what_a_resource_attests_counts_as_completed() -> None:
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.search", {"query": "shoes"})
        assert not await built.redeeming.attest(ORDERS, ORDERS, step.grant_id, Outcome.COMPLETED, None)
        assert built.state.tasks[lease.opened.task_id].shared.completed == {"orders.search"}
        lease.lost("stream_lost", "the stream ended.")
        assert await built.redeeming.attest(ORDERS, ORDERS, step.grant_id, Outcome.FAILED, bytes(32))


async def test_a_redemption_whose_caller_hangs_up_is_finished_and_answers_whoever_asks_again() -> None:
    """INV-03: one redemption id, one answer; it comes also when the first who asked has gone."""
    store = FaultyStore()
    async with heart(store) as built:
        step = await built.granted(await built.open(), "orders.get", ORDER)
        one = redemption(built)
        store.block()
        first = asyncio.ensure_future(built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, one))
        await asyncio.to_thread(store.entered.wait, 5)
        first.cancel()
        await asyncio.wait([first])
        store.free.set()
        again = await asyncio.wait_for(built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, one), 5)
        assert again.accepted
        assert built.state.grants[step.grant_id].uses_left == 0


async def test_a_use_that_is_refused_because_the_step_ended_meanwhile_witnesses_nothing() -> None:
    """INV-05: the resource has not acted, so nothing was completed."""
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        task = built.state.tasks[lease.opened.task_id]
        store.block()
        taking = asyncio.ensure_future(built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, redemption(built)))
        await asyncio.to_thread(store.entered.wait, 5)
        lease.report(ReportStep(step.step_id, Outcome.FAILED, None, "Cancelled"))
        store.free.set()
        assert not (await taking).accepted
        assert task.shared.completed == set()
