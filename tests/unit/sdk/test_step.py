"""A step lives exactly as long as its body, whichever of the two ends first."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from stepgrant.errors import DenialCode, Denied, MisuseError, Revoked
from stepgrant.step import CURRENT_STEP
from stepgrant.testing import GrantRule
from tests.kit.clock import ManualClock
from tests.kit.loop import interrupted, settled


async def test_a_body_that_returns_is_reported_completed_with_the_digest_of_its_result(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        async with task.step("orders.get", {"order_id": "o"}, purpose="look it up") as step:
            assert step.live
            assert CURRENT_STEP.get() is step
            step.result({"paid": 40})
        assert not step.live
        assert CURRENT_STEP.get() is None
    (reported,) = gateway.reported
    assert (reported.step_id, reported.failed, reported.late) == (step.id, False, False)
    assert reported.result_sha256 == hashlib.sha256(b'{"paid":40}').digest()
    (declared,) = gateway.declared
    assert (declared.arguments, declared.purpose, declared.parent_step_id) == ({"order_id": "o"}, "look it up", "")


async def test_a_body_that_raises_is_reported_failed_by_the_class_of_its_error(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(ZeroDivisionError):
            async with task.step("orders.get"):
                _ = 1 / 0
    (reported,) = gateway.reported
    assert (reported.failed, reported.error_class, reported.result_sha256) == (True, "ZeroDivisionError", b"")


async def test_a_body_that_is_cancelled_is_reported_failed(gateway):
    inside = asyncio.Event()

    async def work(task):
        async with task.step("orders.get"):
            inside.set()
            await interrupted()

    async with gateway.client() as client, client.task("Refund") as task:
        running = asyncio.create_task(work(task))
        await inside.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [(one.failed, one.error_class) for one in gateway.reported] == [(True, "CancelledError")]


async def test_a_step_that_is_cancelled_while_it_is_declared_is_given_back(gateway):
    gateway.hold("orders.get")

    async def work(task):
        async with task.step("orders.get"):
            pytest.fail("the body runs")

    async with gateway.client() as client, client.task("Refund") as task:
        running = asyncio.create_task(work(task))
        await gateway.until(lambda: gateway.declared)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await gateway.release("orders.get")
        await gateway.until(lambda: gateway.reported)
    assert [(one.failed, one.error_class) for one in gateway.reported] == [(True, "CancelledError")]


async def test_the_body_of_a_revoked_step_is_cancelled_and_hears_why(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(Revoked, match=r"revoked \(locked\): Locked by an operator\.") as revoked:
            async with task.step("orders.get") as step:
                await gateway.revoke(step.id)
                await interrupted()
        assert (revoked.value.step_id, revoked.value.cause) == (step.id, "locked")
        assert asyncio.current_task().cancelling() == 0
        with pytest.raises(Revoked):
            _ = step.grant
    assert [(one.failed, one.error_class, one.late) for one in gateway.reported] == [(True, "CancelledError", True)]


async def test_a_revoked_body_that_swallows_its_cancellation_raises_all_the_same(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(Revoked):
            async with task.step("orders.get") as step:
                await gateway.revoke(step.id)
                with suppress(asyncio.CancelledError):
                    await interrupted()


async def test_an_error_of_a_revoked_body_is_not_hidden(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(ValueError, match="own trouble"):
            async with task.step("orders.get") as step:
                await gateway.revoke(step.id)
                try:
                    await interrupted()
                except asyncio.CancelledError:
                    raise ValueError("own trouble") from None


async def test_a_cancellation_from_outside_wins_over_a_revocation(gateway):
    revoked = asyncio.Event()

    async def work(task):
        async with task.step("orders.get") as step:
            # Beside the body: the end of the step may cancel the body while the gateway is still saying it.
            revoking = asyncio.create_task(gateway.revoke(step.id))
            try:
                await interrupted()
            finally:
                revoked.set()
                await revoking
                asyncio.current_task().cancel()

    async with gateway.client() as client, client.task("Refund") as task:
        running = asyncio.create_task(work(task))
        with pytest.raises(asyncio.CancelledError):
            await running
    assert revoked.is_set()


async def test_inv_4_a_grant_whose_end_nobody_announces_is_dead_all_the_same(gateway):
    clock = ManualClock(datetime.now(UTC))
    async with gateway.client(clock=clock) as client, client.task("Refund") as task:
        with pytest.raises(Revoked, match="expired"):
            async with task.step("orders.get", renew=False):
                clock.advance(timedelta(seconds=33))
                await interrupted()


async def test_a_grant_is_renewed_inside_the_body_before_it_runs_out(gateway):
    clock = ManualClock(datetime.now(UTC))
    async with gateway.client(clock=clock) as client, client.task("Refund") as task:
        async with task.step("orders.get") as step:
            first = step.grant.grant_id
            clock.advance(timedelta(seconds=17))
            assert gateway.renewed == []
            for count, seconds in enumerate((2, 19), start=1):
                clock.advance(timedelta(seconds=seconds))
                await gateway.until(lambda count=count: len(gateway.renewed) == count)
                await settled(lambda first=first: step.grant.grant_id != first)
                first = step.grant.grant_id
    assert gateway.renewed == [step.id, step.id]
    assert not gateway.reported[0].late


async def test_a_renewal_that_is_refused_lets_the_body_go_on_under_the_old_grant(gateway):
    gateway.deny_renewals("orders.get")
    async with gateway.client() as client, client.task("Refund") as task, task.step("orders.get") as step:
        old = step.grant
        with pytest.raises(Denied, match=r"renewing step .* was denied"):
            await step.renew()
        assert step.grant is old


async def test_a_renewal_that_policy_denies_ends_the_step(gateway):
    gateway.deny_renewals("orders.get", DenialCode.FORBIDDEN, "Not any more.")
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(Revoked, match="policy_changed"):
            async with task.step("orders.get") as step:
                with pytest.raises(Denied):
                    await step.renew()
                await interrupted()


async def test_a_child_dies_with_its_parent(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(Revoked, match="locked"):
            async with task.step("orders.get") as parent:
                with pytest.raises(Revoked, match="parent_ended"):
                    async with task.step("orders.get", parent=parent) as child:
                        await gateway.revoke(parent.id)
                        await interrupted()
        assert gateway.declared[1].parent_step_id == parent.id
        assert child.id != parent.id


async def test_a_stream_that_is_gone_ends_the_body_as_abandoned(gateway):
    async with gateway.client() as client:
        with pytest.raises(Revoked, match="abandoned"):
            async with client.task("Refund") as task, task.step("orders.get"):
                await gateway.go_away()
                await interrupted()


async def test_a_step_is_entered_once_and_its_grant_used_inside_only(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        step = task.step("orders.get")
        with pytest.raises(MisuseError, match="not entered"):
            _ = step.grant
        async with step:
            pass
        with pytest.raises(MisuseError, match="is over"):
            _ = step.grant
        with pytest.raises(MisuseError, match="declare a new one"):
            async with step:
                pass


async def test_the_token_stands_in_no_repr(gateway):
    gateway.grant("orders.get", GrantRule(uses=1))
    async with gateway.client() as client, client.task("Refund") as task, task.step("orders.get") as step:
        assert step.grant.token.count(".") == 2
        assert step.grant.token not in repr(step) + repr(step.grant) + repr(task) + repr(step.holder)


async def test_renewals_that_are_asked_for_at_once_are_one(gateway):
    async with gateway.client() as client, client.task("Refund") as task, task.step("orders.get") as step:
        first, second = await asyncio.gather(step.renew(), step.renew())
        assert first is second is step.grant
    assert gateway.renewed == [step.id]


async def test_the_newer_grant_is_awaited_while_its_renewal_is_under_way(gateway):
    async with gateway.client() as client, client.task("Refund") as task, task.step("orders.get") as step:
        old = step.grant
        assert await step.newer(old) is None
        renewing = asyncio.create_task(step.renew())
        await asyncio.sleep(0)
        assert await step.newer(old) is await renewing
        assert await step.newer(step.grant) is None


async def test_a_renewal_that_could_not_be_had_just_now_is_asked_for_again(gateway):
    """The grant must not run out under the body because the gateway was busy for a moment."""
    clock = ManualClock(datetime.now(UTC))
    gateway.deny_renewals("orders.get", DenialCode.OVERLOADED, "Too much at once.")
    async with gateway.client(clock=clock) as client, client.task("Refund") as task, task.step("orders.get") as step:
        old = step.grant
        clock.advance(timedelta(seconds=19))
        await gateway.until(lambda: len(gateway.renewed) == 1)
        await settled(lambda: step._renewal is None and len(step._timers) > 2)
        gateway.allow_renewals("orders.get")
        clock.advance(timedelta(seconds=1))
        await settled(lambda: step.grant is not old)
    assert len(gateway.renewed) == 2


async def test_a_step_on_another_loop_than_its_tasks_is_refused_and_says_why(gateway):
    async with gateway.client() as client, client.task("Refund") as task:

        async def elsewhere():
            async with task.step("orders.get"):
                pytest.fail("the body runs")

        with pytest.raises(MisuseError, match="another event loop than the one that its task was opened on"):
            await asyncio.to_thread(asyncio.run, elsewhere())
    assert gateway.declared == []


async def test_a_step_that_is_left_in_another_context_is_reported_all_the_same(gateway):
    """Frameworks set up and tear down in tasks of their own."""
    async with gateway.client() as client:
        whole = client.task("Refund")
        step = (await asyncio.create_task(whole.__aenter__())).step("orders.get")
        await asyncio.create_task(step.__aenter__())
        await asyncio.create_task(step.__aexit__(None, None, None))
        await asyncio.create_task(whole.__aexit__(None, None, None))
    assert [one.failed for one in gateway.reported] == [False]
    assert [failed for _, failed in gateway.closed] == [False]


TO = "spiffe://test.stepgrant.test/agent/other"
BOUNDS = {"orders.get": {"order_id": "any"}}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"to": "agent/other"}, "write it as spiffe://trust-domain/path"),
        ({"to": TO + "/"}, "write it as spiffe://trust-domain/path"),
        ({"envelope": None}, "within an envelope"),
        ({"envelope": {}}, "within an envelope"),
        ({"purpose": "p" * 1025}, "shorten it"),
        ({"envelope": {"orders.get": {f"a{n}": {"exact": "v" * 8000} for n in range(20)}}}, "hand less on at once"),
    ],
)
async def test_a_hand_off_that_cannot_be_is_misuse_and_not_asked_for(gateway, said, why):
    async with gateway.client() as client, client.task("Refund") as task, task.step("orders.get") as step:
        with pytest.raises(MisuseError, match=why):
            await step.hand_off(**({"to": TO, "envelope": BOUNDS} | said))
    assert gateway.handed_on == []


async def test_a_step_that_is_not_live_is_not_handed_on(gateway):
    gateway.allow_hand_off("orders.get")
    async with gateway.client() as client, client.task("Refund") as task:
        step = task.step("orders.get")
        with pytest.raises(MisuseError, match=r"orders\.get is not entered: use it inside"):
            await step.hand_off(TO, BOUNDS)
        async with step:
            assert "orders.get" not in repr(await step.hand_off(TO, BOUNDS))
        with pytest.raises(MisuseError, match=r"orders\.get is over: use it inside"):
            await step.hand_off(TO, BOUNDS)
        with pytest.raises(Revoked, match="locked"):
            async with task.step("orders.get") as revoked:
                await gateway.revoke(revoked.id)
                with pytest.raises(asyncio.CancelledError):
                    await interrupted()
                await revoked.hand_off(TO, BOUNDS)
    assert len(gateway.handed_on) == 1
