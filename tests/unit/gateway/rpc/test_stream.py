"""One stream without its writer: what must happen although nothing can be written."""

from __future__ import annotations

import asyncio

from stepgrant.v1 import agent_pb2
from stepgrant_gateway.core.boundary import StepEnded
from stepgrant_gateway.rpc.caller import Caller
from stepgrant_gateway.rpc.limits import MAX_OUTBOX
from stepgrant_gateway.rpc.opening import Speaker
from stepgrant_gateway.rpc.stream import STREAM_BROKEN, TaskStream
from stepgrant_gateway.rpc.turns import Turns
from tests.kit.agent import opening
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
