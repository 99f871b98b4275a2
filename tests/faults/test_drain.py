"""TR-11: SIGTERM for a gateway process in which a thousand steps are live, over many streams."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import suppress

import grpc
import pytest

from stepgrant.ids import ulid
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.app.auditing import read_all, verify_ledger
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader
from stepgrant_gateway.system import SystemClock, system_entropy
from tests.faults.http2 import http2, tls_of
from tests.faults.serving import Site, site
from tests.kit.agent import Agent, declaring
from tests.kit.desk import PARAMETERS
from tests.kit.running import ISSUER

STREAMS = 20
EACH = 50
WITHIN = 60.0


async def working(place: Site, channel: grpc.aio.Channel) -> tuple[Agent, set[str]]:
    """A stream whose task has many live steps, and the ids of them."""
    leaf = (await place.identity("agent/support")).current().chain_der[0]
    agent = Agent(channel)
    proven = {"certificate": hashlib.sha256(leaf).digest(), "gateway": ISSUER, "parameters_json": PARAMETERS}
    assert (await agent.open(**proven)).opened.task_id
    for _ in range(EACH):
        await agent.send(declare=declaring(ulid(SystemClock().now(), system_entropy(10))))
    granted = [(await agent.read()).granted for _ in range(EACH)]
    return agent, {grant.step_id for grant in granted if grant.grant}


async def last_words(agent: Agent) -> tuple[Counter[str], str, grpc.StatusCode | None]:
    """What the stream says until it ends: kinds of messages, why the task was closed, and how the call ended."""
    said: Counter[str] = Counter()
    closed = ""
    try:
        while isinstance(message := await asyncio.wait_for(agent.call.read(), WITHIN), agent_pb2.GatewayMessage):
            said[str(message.WhichOneof("message"))] += 1
            closed = message.closed.code or closed
    except grpc.aio.AioRpcError as error:
        return said, closed, error.code()
    return said, closed, await agent.call.code()


async def asks_on(agent: Agent) -> None:
    """Declares more, for as long as the stream takes it."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for _ in range(EACH):
            await agent.send(declare=declaring(ulid(SystemClock().now(), system_entropy(10))))


@pytest.mark.slow
async def test_tr_11_a_gateway_that_stops_ends_a_thousand_steps_says_so_records_it_and_exits():
    """Also while one agent asks on and another never reads."""
    async with site() as place:
        life = await place.begin()
        snapshot = (await place.identity("agent/other")).current()
        async with place.channel("agent/support") as channel, http2(place.port, tls_of(snapshot), window=0) as deaf:
            await deaf.call(1)
            streams = [await working(place, channel) for _ in range(STREAMS)]
            steps = {step for _, granted in streams for step in granted}
            assert len(steps) == STREAMS * EACH

            asking = asyncio.create_task(asks_on(streams[0][0]))
            life.process.terminate()
            words = await asyncio.gather(*(last_words(agent) for agent, _ in streams))
            status = await life.ended()
            await asking

        assert status == 0
        assert {closed for _, closed, _ in words} == {"draining"}
        assert [said["revoked"] for said, _, _ in words[1:]] == [EACH] * (STREAMS - 1)
        reader = SqliteLedgerReader(place.ledger)
        events = [stored.event for stored in read_all(reader)]
        verified = verify_ledger(reader)
        reader.close()
    granted = {event.data["step"] for event in events if event.type is EventType.STEP_GRANTED}
    ended = Counter(event.data["step"] for event in events if event.type is EventType.STEP_ENDED)
    closed = [event.data["code"] for event in events if event.type is EventType.TASK_CLOSED]
    assert granted >= steps
    assert ended == dict.fromkeys(granted, 1)
    assert closed == ["draining"] * STREAMS
    assert verified.chains[0].stopped
