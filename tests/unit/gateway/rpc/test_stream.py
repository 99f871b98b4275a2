"""One stream without its writer: what must happen although nothing can be written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from stepgrant.errors import TaskClosedError
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.core.boundary import StepEnded, TaskClosed
from stepgrant_gateway.rpc.caller import Caller
from stepgrant_gateway.rpc.limits import AT_ONCE, MAX_OUTBOX, STANDS_BACK
from stepgrant_gateway.rpc.opening import Speaker
from stepgrant_gateway.rpc.stream import STREAM_BROKEN, TaskStream
from stepgrant_gateway.rpc.turns import Turns
from tests.kit.agent import declaring, opening
from tests.kit.clock import START, ManualClock
from tests.kit.face import AGENT, GATEWAY_ID, INSTANCE, LIMITS, STEP, FakeTasks

NONCE = b"n" * 32


async def test_the_lease_of_an_agent_that_does_not_read_ends_although_nothing_can_be_written_to_it():
    """INV-05: what the gateway takes for gone holds nothing any more."""
    tasks = FakeTasks()
    speaker = Speaker(GATEWAY_ID, INSTANCE, LIMITS)
    clock = ManualClock()
    stream = TaskStream(Caller(AGENT, {}), tasks, speaker, clock, NONCE, lambda: None, Turns(clock))
    messages: asyncio.Queue[agent_pb2.AgentMessage] = asyncio.Queue()
    messages.put_nowait(agent_pb2.AgentMessage(request=1, open=opening(NONCE)))
    listening = asyncio.get_running_loop().create_task(stream.listen(messages.get))
    await asyncio.wait_for(tasks.leased.wait(), 5)

    for _ in range(MAX_OUTBOX + 1):
        tasks.leases[0].push(StepEnded(STEP, "revoked", "locked", "x", START))

    code, _ = await asyncio.wait_for(tasks.leases[0].ended, 5)
    assert code == STREAM_BROKEN
    listening.cancel()


async def test_sm_03_what_waits_for_its_turn_at_a_take_over_does_not_cost_others_their_answers():
    """Who got no answer knows that nothing was decided; a grant that was decided must come, as its step lives on."""
    tasks, clock = FakeTasks(), ManualClock()
    turns = Turns(clock)
    for _ in range(AT_ONCE - 1):
        turns.begin(str(AGENT.spiffe_id))
    stream = TaskStream(
        Caller(AGENT, {}), tasks, Speaker(GATEWAY_ID, INSTANCE, LIMITS), clock, NONCE, lambda: None, turns
    )
    messages: asyncio.Queue[agent_pb2.AgentMessage] = asyncio.Queue()
    messages.put_nowait(agent_pb2.AgentMessage(request=1, open=opening(NONCE)))
    listening = asyncio.get_running_loop().create_task(stream.listen(messages.get))
    await asyncio.wait_for(tasks.leased.wait(), 5)
    [lease] = tasks.leases
    lease.hold = durable = asyncio.Event()
    for number in (2, 3):
        messages.put_nowait(agent_pb2.AgentMessage(request=number, declare=declaring()))
    await settle()

    lease.error = TaskClosedError("the task was taken over by another stream")
    lease.push(TaskClosed("taken_over", "another stream has the task"))
    turns.leave(str(AGENT.spiffe_id))
    await settle()
    durable.set()

    heard = [message async for message in said(stream)]
    assert [message.WhichOneof("message") for message in heard] == ["opened", "granted", "closed"]
    assert (heard[1].reply_to, heard[2].closed.code) == (2, "taken_over")
    listening.cancel()


async def said(stream: TaskStream) -> AsyncIterator[agent_pb2.GatewayMessage]:
    """What the stream says, to its end."""
    while (message := await asyncio.wait_for(stream.outbox.next(), 5)) is not None:
        yield message


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("told", [timedelta(milliseconds=5), timedelta(seconds=1)])
async def test_a_stream_that_asks_again_before_it_may_is_not_read_before_it_may(told: timedelta):
    """INV-11 and design 6, Load: also to be refused costs the others something. At first it is only told."""
    tasks, clock = FakeTasks(), ManualClock()
    speaker = Speaker(GATEWAY_ID, INSTANCE, LIMITS)
    stream = TaskStream(Caller(AGENT, {}), tasks, speaker, clock, NONCE, lambda: told, Turns(clock))
    sent = [agent_pb2.AgentMessage(request=1, open=opening(NONCE))]
    sent += [agent_pb2.AgentMessage(request=number, declare=declaring()) for number in range(2, 100)]
    waiting = iter(sent)
    taken = 0

    async def read() -> agent_pb2.AgentMessage:
        nonlocal taken
        taken += 1
        return next(waiting)

    listening = asyncio.get_running_loop().create_task(stream.listen(read))
    await asyncio.wait_for(tasks.leased.wait(), 5)
    await settle()
    refused = 2
    assert taken == 1 + refused
    for more in range(1, 4):
        clock.advance(min(told, STANDS_BACK))
        await settle()
        assert taken == 1 + refused + more
    listening.cancel()
