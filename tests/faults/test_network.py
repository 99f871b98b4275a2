"""TR-07: a network that fails in each way, between the real SDK and a whole gateway. Both ends close, and say why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from stepgrant import link
from stepgrant.client import Client
from stepgrant.errors import GatewayUnavailableError, Revoked, StepgrantError
from stepgrant.link import Address
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.rpc.server import Transport
from tests.faults.proxy import Network, Proxy, proxy
from tests.faults.waiting import eventually
from tests.kit.running import ISSUER, Running, running_gateway

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@x.org"}
GET = ("orders.get", {"order_id": "ord_00000042"})
WITHIN = 15
"""Seconds: far more than the signs of life of these tests, and less than any other bound that ends a step here."""
SHORT = Transport(silence=timedelta(milliseconds=300), reply=timedelta(milliseconds=300))


@dataclass
class Line:
    """A gateway, the network in front of it, and an SDK client behind that."""

    running: Running
    network: Proxy
    client: Client

    def live_steps(self) -> int:
        """Steps that the gateway holds for live."""
        return sum(len(task.live) for task in self.running.gateway.application.state.tasks.values())


@asynccontextmanager
async def line(transport: Transport = SHORT) -> AsyncIterator[Line]:
    async with running_gateway(transport=transport) as running, proxy(running.gateway.port) as network:
        source = running.identity("agent/support")
        await asyncio.to_thread(source.current)
        client = Client(Address("127.0.0.1", network.port), parse_spiffe_id(ISSUER), source)
        try:
            yield Line(running, network, client)
        finally:
            await client.close()


@pytest.fixture
def short(monkeypatch):
    """The SDK asks for a sign of life as often as the gateway of these tests."""
    monkeypatch.setattr(link, "KEEPALIVE", tuple((name, 300) for name, _ in link.KEEPALIVE))


async def body_ends(task, begun: asyncio.Event) -> StepgrantError:
    """What a body hears that would work for ever."""
    with pytest.raises(StepgrantError) as heard:
        async with task.step(*GET):
            begun.set()
            await asyncio.Event().wait()
    return heard.value


@pytest.mark.slow
@pytest.mark.parametrize("network", [Network.BLACK_HOLE, Network.GARBLED])
async def test_tr_07_when_nothing_comes_through_both_ends_find_out_and_the_step_is_over(short, network):
    async with line() as between, between.client.task("Refund", PARAMETERS) as task:
        begun = asyncio.Event()
        working = asyncio.create_task(body_ends(task, begun))
        await asyncio.wait_for(begun.wait(), WITHIN)
        between.network.network = network

        heard = await asyncio.wait_for(working, WITHIN)
        await eventually(lambda: not between.live_steps(), WITHIN)

        assert isinstance(heard, Revoked)
        assert heard.state == "abandoned"
        assert heard.cause == "gateway_unavailable"
        with pytest.raises(GatewayUnavailableError, match="open it again"):
            async with task.step(*GET):
                pytest.fail("the body ran")


async def test_tr_07_the_gateway_finds_out_by_itself_that_an_agent_is_gone(monkeypatch):
    """Half open: the agent's end is there, hears nothing any more, and does not ask."""
    monkeypatch.setattr(link, "KEEPALIVE", ())
    async with line() as between, between.client.task("Refund", PARAMETERS) as task:
        begun = asyncio.Event()
        working = asyncio.create_task(body_ends(task, begun))
        await asyncio.wait_for(begun.wait(), WITHIN)
        between.network.network = Network.DEAF

        await eventually(lambda: not between.live_steps(), WITHIN)
        working.cancel()


async def test_tr_07_the_sdk_finds_out_by_itself_that_its_gateway_is_gone(short):
    async with line(Transport()) as between, between.client.task("Refund", PARAMETERS) as task:
        begun = asyncio.Event()
        working = asyncio.create_task(body_ends(task, begun))
        await asyncio.wait_for(begun.wait(), WITHIN)
        between.network.network = Network.BLACK_HOLE

        heard = await asyncio.wait_for(working, WITHIN)
        assert isinstance(heard, Revoked)
        assert heard.cause == "gateway_unavailable"


async def test_tr_07_a_connection_that_is_cut_ends_the_task_at_both_ends_and_the_next_goes_on():
    async with line() as between:
        async with between.client.task("Refund", PARAMETERS) as task:
            begun = asyncio.Event()
            working = asyncio.create_task(body_ends(task, begun))
            await asyncio.wait_for(begun.wait(), WITHIN)
            between.network.cut()

            assert isinstance(await asyncio.wait_for(working, WITHIN), Revoked)
            await eventually(lambda: not between.live_steps(), WITHIN)

        async with between.client.task("Refund", PARAMETERS) as task, task.step(*GET) as step:
            assert step.grant.token


async def test_tr_07_a_slow_network_is_slow_and_no_more():
    async with line() as between:
        between.network.delay = 0.02
        async with between.client.task("Refund", PARAMETERS) as task, task.step(*GET) as step:
            assert step.grant.token
        assert not between.live_steps()


@pytest.mark.slow
async def test_tr_07_nothing_is_begun_where_nothing_comes_through():
    async with line() as between:
        between.network.network = Network.BLACK_HOLE
        with pytest.raises(GatewayUnavailableError, match="did not prove to be"):
            async with between.client.task("Refund", PARAMETERS):
                pytest.fail("the task opened")
