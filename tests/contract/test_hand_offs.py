"""What every gateway answers when a step is handed on, whatever policy says; what is decided is tests/integration's."""

from __future__ import annotations

import grpc
import pytest

from stepgrant._wire import read_answer
from stepgrant.v1 import agent_pb2, types_pb2
from tests.kit.speakers import new_id, raw_agent, speaking

DONE = types_pb2.OUTCOME_COMPLETED


def handing_on(step_id, **changes):
    """A step, handed on to payments, to read an order."""
    reads = types_pb2.EnvelopeTool(tool="orders.get", arguments=[{"argument": "order_id", "any": True}])
    fields = {"workload": "spiffe://dev.stepgrant.test/agent/payments", "envelope": types_pb2.Envelope(tools=[reads])}
    return agent_pb2.HandOff(step_id=step_id, **(fields | changes))


@pytest.fixture(params=["scripted", "real"])
async def opened(request):
    async with speaking(request.param) as speaker, raw_agent(speaker, speaker.identity()) as raw:
        await raw.open()
        yield raw


async def test_a_step_of_another_task_is_not_handed_on_and_the_stream_ends(opened):
    await opened.write(agent_pb2.AgentMessage(request=2, hand_off=handing_on(new_id())))
    assert await opened.status() is grpc.StatusCode.INVALID_ARGUMENT


async def test_inv_2_what_nothing_permits_is_not_handed_on_and_the_stream_goes_on(opened):
    step = new_id()
    await opened.declare(step)
    answer = await opened.say(hand_off=handing_on(step))
    assert (answer.reply_to, answer.denied.step_id) == (3, step)
    assert answer.denied.code in {"no_permit", "outside_envelope"}
    read_answer(answer)
    assert (await opened.declare(new_id())).WhichOneof("message") == "granted"


async def test_a_step_that_has_ended_is_not_handed_on(opened):
    step = new_id()
    await opened.declare(step)
    await opened.say(report=agent_pb2.Report(step_id=step, outcome=DONE))
    answer = await opened.say(hand_off=handing_on(step))
    assert (answer.denied.code, answer.denied.step_id) == ("step_ended", step)
    read_answer(answer)


@pytest.mark.parametrize(
    "changes", [{"workload": "agent/payments"}, {"envelope": None}, {"envelope": types_pb2.Envelope()}]
)
async def test_inv_11_a_hand_off_to_nobody_or_without_an_envelope_ends_the_stream(opened, changes):
    step = new_id()
    await opened.declare(step)
    await opened.write(agent_pb2.AgentMessage(request=3, hand_off=handing_on(step, **changes)))
    assert await opened.status() is grpc.StatusCode.INVALID_ARGUMENT
