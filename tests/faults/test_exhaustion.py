"""Group K: who takes everything that there is to take, and what is left for the others."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant_gateway.rpc.server import TRANSPORT, Transport
from tests.faults.http2 import END_HEADERS, PERFORM_TASK, REFUSED_STREAM, WITHIN, Frame, headers, http2
from tests.faults.serving import site
from tests.faults.waiting import eventually
from tests.kit.agent import Agent, declaring
from tests.kit.face import Face, serving
from tests.kit.running import running_gateway

LIMITED = """
import resource
from stepgrant_gateway.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, ({count}, {count}))
main()
"""
PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@x.org"}


async def test_ds_01_calls_beyond_what_a_connection_may_have_are_refused_and_the_others_stay():
    face = Face(transport=replace(TRANSPORT, streams=8))
    async with serving(face), http2(face.port) as greedy:
        await greedy.until("heard")
        for number in range(64):
            await greedy.send(Frame.HEADERS, END_HEADERS, 2 * number + 1, headers(PERFORM_TASK))
        await eventually(lambda: len(greedy.resets) >= 32)

        assert set(greedy.resets.values()) == {REFUSED_STREAM}
        assert len(face.live) <= 8 + 1


async def test_ds_03_who_connects_and_says_nothing_is_let_go_soon():
    async with running_gateway(transport=Transport(handshake=timedelta(seconds=2))) as running:
        silent = [await asyncio.open_connection("127.0.0.1", running.gateway.port) for _ in range(50)]
        client = await running.client()
        async with client.task("Refund", PARAMETERS):
            ends = [await asyncio.wait_for(reader.read(), WITHIN) for reader, _ in silent]
        for _, writer in silent:
            writer.transport.abort()

    assert set(ends) == {b""}


async def test_ds_03_connections_beyond_the_bound_are_not_served_and_those_that_are_there_go_on():
    face = Face(transport=replace(TRANSPORT, connections=4))
    async with serving(face) as channel, AsyncExitStack() as stack:
        agent = Agent(channel)
        await agent.open()
        taken = [await stack.enter_async_context(http2(face.port)) for _ in range(3)]
        for one in taken:
            await one.until("heard")
        async with http2(face.port) as beyond:
            await beyond.over()
        await agent.send(declare=declaring())

        assert not beyond.heard[Frame.SETTINGS]
        assert (await agent.read()).granted.grant


@pytest.mark.slow
async def test_ds_08_a_gateway_without_descriptors_goes_on_with_what_it_has_and_tells_the_truth():
    """Two hundred silent connections to a process that may have sixty-four descriptors; then they are gone."""
    limited = (sys.executable, "-c", LIMITED.format(count=64))
    async with site() as place, AsyncExitStack() as stack:
        life = await place.begin(command=limited)
        assert life.ready, life.said()
        channel = await stack.enter_async_context(place.channel("operator/jo"))
        await asyncio.wait_for(channel.channel_ready(), WITHIN)
        client = await place.client()
        async with client.task("Refund", PARAMETERS) as task:
            silent = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(200)]
            async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
                assert step.grant.token
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WITHIN)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            for _, writer in silent:
                writer.transport.abort()
        again = await stack.enter_async_context(place.channel("agent/support"))
        await asyncio.wait_for(again.channel_ready(), WITHIN)
        assert life.process.returncode is None
