"""Agents behind Envoy: they work as if it were not there, and what ends behind or before it ends on both sides."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest

from stepgrant.v1 import agent_pb2, agent_pb2_grpc
from tests.integration.envoy.proxy import edge, real_envoy
from tests.integration.spire.outside import channel_showing, shown_by
from tests.integration.spire.processes import PATIENCE
from tests.integration.spire.site import GATEWAY, SUPPORT, distinct, events, goes_on

pytestmark = list(real_envoy)


async def test_a_task_goes_on_behind_envoy_through_rotations_of_tokens_and_of_both_servers_svids() -> None:
    """Each stream lasts longer than Envoy's 15 s for a route. What is bound to a certificate is denied to who shows none."""
    async with edge(svid_ttl=60, jwt_ttl=40) as front:
        await front.proxy()
        shown = await shown_by(front.address)
        agent = await front.reading()
        assert await agent.line("denied") == "certificate_required"
        for tokens in range(1, 5):
            await agent.until(lambda said, tokens=tokens: len(distinct(said, "step")) >= tokens)
        await goes_on(agent)
        assert len(distinct(agent.said, "task")) == 1
        assert await shown_by(front.address) != shown
        assert events(front.gateway, "svid_rotated")


async def test_authorization_reaches_the_gateway_and_its_words_and_trailers_the_agent() -> None:
    async with edge() as front:
        await front.proxy()
        token = (await front.site.server.tell("jwt", "mint", "-spiffeID", SUPPORT, "-audience", GATEWAY)).strip()
        async with channel_showing(None, front.address) as channel:
            agent = agent_pb2_grpc.AgentGatewayStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await agent.PerformTask(metadata=(("authorization", "Bearer x.y.z"),)).read()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "base64url" in str(refused.value.details())

            async with asyncio.timeout(PATIENCE):
                call = agent.PerformTask(metadata=(("authorization", f"Bearer {token}"),))
                assert (await call.read()).HasField("challenge")
                await call.write(agent_pb2.AgentMessage(close=agent_pb2.Close()))
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_killed_envoy_ends_what_it_carried_and_its_successor_takes_agents_again() -> None:
    async with edge() as front:
        envoy = await front.proxy()
        agent = await front.reading()
        await goes_on(agent)
        await envoy.end(signal.SIGKILL)
        assert await agent.line("stopped") == "gateway_unavailable"
        await front.site.nobody_works()
        await front.proxy()
        await goes_on(await front.reading())


async def test_who_vanishes_without_a_word_on_one_side_of_envoy_is_gone_on_the_other() -> None:
    """Signs of life are between neighbours: without Envoy's own, the gateway never hears of it, and an agent when it next asks."""
    async with edge() as front:
        await front.proxy()
        agent = await front.reading("held")
        await agent.line("held")
        with agent.halted():
            await front.site.nobody_works()
        agent = await front.reading("held")
        await agent.line("held")
        with front.gateway.halted():
            assert await agent.line("stopped") == "gateway_unavailable"
            assert "did not answer" not in await agent.line("text")


async def test_envoy_talks_to_nobody_but_the_gateway_that_it_was_told() -> None:
    async with edge() as front:
        await front.proxy(**{"exact: spiffe://acme.org/stepgrant": "exact: spiffe://acme.org/other"})
        agent = await front.reading()
        assert await agent.line("stopped") == "gateway_unavailable"
        assert "upstream connect error" in await agent.line("text")


async def test_a_limit_on_idle_streams_ends_tasks_whose_agents_think_for_longer() -> None:
    """Why the page takes it away: by itself it is five minutes."""
    async with edge() as front:
        await front.proxy(**{"stream_idle_timeout: 0s": "stream_idle_timeout: 5s"})
        agent = await front.reading("held")
        await agent.line("held")
        assert await agent.line("stopped") == "gateway_unavailable"
