"""Both sides of a hand-off, each in its own client, against the scripted gateway."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise

import pytest

from stepgrant.compact import from_base64url
from stepgrant.errors import DenialCode, Denied, Revoked, TaskClosedError
from stepgrant.grant import from_payload
from stepgrant.handed import HandOff
from stepgrant.testing import ScriptedGateway
from stepgrant.testing.script import ORIGIN
from tests.kit.loop import interrupted

PAYMENTS = "spiffe://test.stepgrant.test/agent/payments"
BOUNDS = {"orders.get": {"order_id": {"exact": "o"}, "most": {"at_most": 3}, "path": {"prefix": "/a"}, "note": "any"}}


@pytest.fixture
def scripted(gateway):
    gateway.grant("orders.report")
    gateway.allow_hand_off("orders.report")
    return gateway


async def test_the_receiver_works_on_a_branch_of_the_same_task(scripted):
    async with scripted.client() as origin, origin.task("Refund", {"order_id": "o"}) as task:
        async with task.step("orders.report") as step:
            hand_off = await step.hand_off(PAYMENTS, BOUNDS, purpose="pay it")
            handed = HandOff.read(hand_off.slip())
            async with scripted.client("agent/payments") as receiver, receiver.task(handed) as branch:
                assert (branch.id, branch.type, branch.branch_id) == (task.id, "Refund", hand_off.id)
                assert hand_off.id in repr(branch)
                async with branch.step("orders.get", {"order_id": "o"}) as below:
                    claims = from_payload(from_base64url(below.grant.token.split(".")[1]))
        assert task.branch_id == ""
    assert (claims.subject, claims.chain) == (PAYMENTS, (f"{ORIGIN.rpartition('/')[0]}/test", PAYMENTS))
    assert claims.task_id == task.id
    [handed_on] = scripted.handed_on
    assert (handed_on.step_id, handed_on.tool, handed_on.workload, handed_on.purpose) == (
        step.id, "orders.report", PAYMENTS, "pay it",
    )  # fmt: skip
    assert handed_on.envelope == BOUNDS
    [_, opened] = scripted.opened
    assert (opened.purpose, opened.branch_id, opened.parameters) == ("pay it", hand_off.id, {"order_id": "o"})


async def test_a_hand_off_opens_one_branch_for_its_workload_with_its_words(scripted):
    async with scripted.client() as origin, origin.task("Refund") as task, task.step("orders.report") as step:
        hand_off = await step.hand_off(PAYMENTS, BOUNDS)
        async with scripted.client("agent/payments") as receiver, scripted.client("agent/other") as other:
            for client, shown in (
                (other, hand_off),
                (receiver, replace(hand_off, parameters={"order_id": "p"})),
                (receiver, replace(hand_off, task_type="Payout")),
                (receiver, replace(hand_off, ticket=b"t" * 32)),
            ):
                with pytest.raises(Denied) as refused:
                    async with client.task(shown):
                        pytest.fail("the branch opens")
                assert refused.value.denial.code is DenialCode.HAND_OFF_REFUSED
            async with receiver.task(hand_off):
                pass
            with pytest.raises(Denied) as again:
                async with receiver.task(hand_off):
                    pytest.fail("it was used")
            assert again.value.denial == replace(refused.value.denial, decision_id=again.value.denial.decision_id)


@pytest.mark.parametrize("by", ["report", "revoked", "lost", "closed"])
async def test_a_branch_dies_with_the_step_that_it_is_below(scripted, by):
    async with scripted.client("agent/payments") as receiver, scripted.client() as origin:
        opening = origin.task("Refund")
        task = await opening.__aenter__()
        step = task.step("orders.report")
        await step.begin()
        hand_off = await step.hand_off(PAYMENTS, BOUNDS)
        late = await step.hand_off(PAYMENTS, BOUNDS)
        async with receiver.task(hand_off) as branch:
            with pytest.raises(Revoked) as revoked:
                async with branch.step("orders.get"):
                    await _end(by, scripted, step, opening)
                    await interrupted()
            assert (revoked.value.state, revoked.value.cause) == ("revoked", "parent_ended")
            with pytest.raises(
                TaskClosedError, match=r"closed the branch \(parent_ended\).*Have the step handed on anew"
            ):
                while True:
                    await branch.step("orders.get").begin()
        with pytest.raises(Denied) as over:
            async with receiver.task(late):
                pytest.fail("its step has ended")
        assert over.value.denial.code is DenialCode.HAND_OFF_REFUSED
        if by != "closed":
            await opening.__aexit__(None, None, None)


async def _end(by, scripted, step, opening):
    if by == "report":
        await step.finish(None)
    elif by == "revoked":
        await scripted.revoke(step.id)
    elif by == "closed":
        await opening.__aexit__(None, None, None)
    else:
        [stream] = [one for one in scripted._streams if step.id in one._task.steps]
        stream.cut()


async def test_what_is_not_scripted_is_not_handed_on_and_nothing_goes_in_circles(scripted):
    async with scripted.client() as client, client.task("Refund") as task:
        async with task.step("orders.get") as step:
            with pytest.raises(Denied, match=r"handing on step orders\.get was denied \(no_permit\)"):
                await step.hand_off(PAYMENTS, BOUNDS)
        async with task.step("orders.report") as step:
            with pytest.raises(Denied, match=r"limit_exceeded.*has part in this task already"):
                await step.hand_off("spiffe://test.stepgrant.test/agent/test", BOUNDS)
            scripted.deny_hand_off("orders.report", DenialCode.FORBIDDEN, "Not today.")
            with pytest.raises(Denied, match=r"forbidden\): Not today\."):
                await step.hand_off(PAYMENTS, BOUNDS)


async def test_a_chain_has_four_workloads_at_most(scripted):
    async with AsyncExitStack() as live:
        what = "Refund"
        for name, following in pairwise(["one", "two", "three", "four", "five"]):
            client = await live.enter_async_context(scripted.client(f"agent/{name}"))
            task = await live.enter_async_context(client.task(what))
            step = await live.enter_async_context(task.step("orders.report"))
            handing_on = step.hand_off(f"spiffe://test.stepgrant.test/agent/{following}", BOUNDS)
            if name != "four":
                what = await handing_on
                continue
            with pytest.raises(Denied, match="at most 4 workloads"):
                await handing_on


async def test_a_receiver_is_tested_without_an_origin():
    async with ScriptedGateway() as gateway, gateway.client() as client:
        hand_off = gateway.hand_off("Refund", {"order_id": "o"}, purpose="pay it")
        async with client.task(hand_off) as branch:
            assert branch.branch_id == hand_off.id
            gateway.cut()
            await gateway.until(lambda: gateway.resumed == [branch.id])
            assert branch.branch_id == hand_off.id
        [opened] = gateway.opened
        assert opened.came_through == (ORIGIN,)
        gateway.deny_open("Refund")
        with pytest.raises(Denied) as denied:
            async with client.task(gateway.hand_off("Refund")):
                pytest.fail("the test says no")
        assert denied.value.denial.code is DenialCode.NO_PERMIT
