"""INV-11 on the stream: a word of the gateway that the protocol does not allow ends it, and with it every step."""

from __future__ import annotations

import asyncio

import pytest

from stepgrant.errors import GatewayUnavailableError, ProtocolError, Revoked, TaskClosedError
from stepgrant.session import Ends, Opening, open_session
from stepgrant.v1 import agent_pb2
from tests.kit.loop import interrupted, settled

OTHER = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    ("pushed", "why"),
    [
        (agent_pb2.GatewayMessage(reply_to=99, settled=agent_pb2.Settled(step_id=OTHER, state="failed")), "request 99"),
        (agent_pb2.GatewayMessage(settled=agent_pb2.Settled(step_id=OTHER, state="failed")), "pushed a Settled"),
        (
            agent_pb2.GatewayMessage(
                revoked=agent_pb2.Revoked(step_id=OTHER, state="revoked", code="locked", at_unix_ms=1)
            ),
            "never declared",
        ),
        (
            agent_pb2.GatewayMessage.FromString(
                agent_pb2.GatewayMessage(closed=agent_pb2.Closed(code="x")).SerializeToString() + b"\x98\x06\x01"
            ),
            "field 99",
        ),
        (agent_pb2.GatewayMessage(), "no member set"),
    ],
)
async def test_inv_11_a_push_that_the_protocol_does_not_allow_ends_the_stream(gateway, pushed, why):
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(Revoked, match=why):
            async with task.step("orders.get"):
                await gateway.push(pushed)
                await interrupted()
        with pytest.raises(ProtocolError, match=why):
            async with task.step("orders.get"):
                pytest.fail("the body runs")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"settled": agent_pb2.Settled(step_id=OTHER, state="completed")}, "with a Settled"),
        ({"denied": {"step_id": OTHER, "code": "no_permit"}}, "for another step"),
        ({"closed": agent_pb2.Closed(code="closed")}, "with a Closed"),
    ],
)
async def test_inv_11_an_answer_of_another_kind_or_for_another_step_ends_the_stream(gateway, answer, why):
    gateway.hold("orders.get")
    async with gateway.client() as client, client.task("Refund") as task:
        running = asyncio.create_task(_enter(task.step("orders.get")))
        await gateway.until(lambda: gateway.declared)
        await gateway.push(agent_pb2.GatewayMessage(reply_to=2, **answer))
        with pytest.raises(ProtocolError, match=why):
            await running
        assert not task.open


async def test_inv_11_a_body_never_runs_when_the_gateway_is_away(gateway):
    """No answer, no step: neither before the declaration nor while it waits."""
    gateway.hold("orders.get")
    async with gateway.client() as client, client.task("Refund") as task:
        running = asyncio.create_task(_enter(task.step("orders.get")))
        await gateway.until(lambda: gateway.declared)
        await gateway.go_away()
        with pytest.raises(GatewayUnavailableError):
            await running
        with pytest.raises(GatewayUnavailableError):
            await _enter(task.step("orders.get"))


async def test_a_gateway_that_does_not_answer_in_time_is_away(gateway):
    gateway.hold("orders.get")
    async with gateway.client() as client, client.task("Refund") as task:
        task._lease._hold.session._timeout = 0.05
        with pytest.raises(GatewayUnavailableError, match=r"did not answer within 0\.05 s"):
            await _enter(task.step("orders.get"))
        await gateway.release("orders.get")
        await _enter(task.step("orders.get"))  # On another stream, which the gateway does answer on.
        assert gateway.resumed == [task.id]


async def test_inv_11_a_challenge_of_another_gateway_is_not_answered(gateway):
    async with gateway.client() as client, client.task("Refund"):
        (link,) = client._links._all
        opening = Opening("Refund", "{}", "")
        with pytest.raises(ProtocolError, match="another gateway"):
            await open_session(
                link.stream(),
                "spiffe://other.org/gateway",
                opening,
                lambda _: pytest.fail("signed"),
                ends=Ends(),
                resume_token=lambda: pytest.fail("asked for the token"),
            )


@pytest.mark.parametrize("reason", ["The task has reached its max_age.", "the task has reached its max_age"])
async def test_a_closed_task_takes_no_more_steps_and_says_why_in_whole_sentences(gateway, reason):
    async with gateway.client() as client, client.task("Refund") as task:
        await gateway.close_tasks("task_expired", reason)
        with pytest.raises(TaskClosedError, match=r"task_expired.*max_age\. Open a new one\.$"):
            while True:
                await _enter(task.step("orders.get"))


async def test_closing_says_how_the_task_came_out(gateway):
    async with gateway.client() as client:
        async with client.task("Refund"):
            pass
        with pytest.raises(ZeroDivisionError):
            async with client.task("Refund"):
                _ = 1 / 0
    assert [failed for _, failed in gateway.closed] == [False, True]


async def test_many_steps_at_once_each_get_their_own_answer(gateway):
    gateway.grant("orders.search")
    async with gateway.client() as client, client.task("Refund") as task:
        steps = [task.step("orders.get" if i % 2 else "orders.search", {"i": i}) for i in range(200)]
        await asyncio.gather(*(_enter(step) for step in steps))
    assert {one.step_id for one in gateway.reported} == {step.id for step in steps}


async def _enter(step):
    async with step:
        pass


@pytest.mark.parametrize("branch", [False, True])
async def test_who_tries_again_in_a_task_whose_stream_was_cut_is_told_how_to_begin_anew(gateway, branch):
    """A hand-off opens one branch: to open it again is no way."""
    what = gateway.hand_off("Refund") if branch else "Refund"
    then = "the branch is over, have the step handed on anew" if branch else "the task is over, open it again"
    async with gateway.client() as client, client.task(what) as task:
        await gateway.go_away()
        await settled(lambda: not task.open)
        with pytest.raises(GatewayUnavailableError, match=then):
            async with task.step("orders.get"):
                pytest.fail("the body runs")
