"""TR-06: who never reads what the gateway says. What it holds ends at once, and nothing of it stays for ever."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from stepgrant.ids import ulid
from stepgrant.v1 import agent_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.app.feed import MAX_BACKLOG
from stepgrant_gateway.core.boundary import StepEnded
from stepgrant_gateway.core.revocation import RevokedGrant
from stepgrant_gateway.rpc.limits import MAX_OUTBOX
from stepgrant_gateway.rpc.server import Transport
from stepgrant_gateway.system import system_entropy
from tests.faults.http2 import http2, tls_of
from tests.faults.waiting import eventually
from tests.kit.agent import opening
from tests.kit.clock import START
from tests.kit.face import STEP, Face, serving
from tests.kit.running import running_gateway

SHORT = Transport(age=timedelta(seconds=1), grace=timedelta(seconds=1))
WATCH = "/stepgrant.v1.GrantVerifier/Watch"
ORDERS = "spiffe://dev.stepgrant.test/resource/orders"


@pytest.mark.parametrize("window", [0, 4096], ids=["from the first word on", "after a while"])
async def test_tr_06_of_an_agent_that_never_reads_nothing_stays_once_its_connection_is_old(window):
    """gRPC cannot end a call whose data is stuck, so the age of its connection does; meanwhile it has the agent's own place."""
    face = Face(transport=SHORT)
    async with serving(face), http2(face.port, window=window) as agent:
        await agent.call(1)
        await agent.say(1, agent_pb2.AgentMessage(request=1, open=opening(b"n" * 32)).SerializeToString())
        await asyncio.wait_for(face.tasks.leased.wait(), 30)
        lease = face.tasks.leases[0]
        for _ in range(2 * MAX_OUTBOX):
            lease.push(StepEnded(STEP, "revoked", "locked", "x" * 100, START))

        assert (await asyncio.wait_for(lease.ended, 30))[0] == "stream_broken"
        await agent.over()
        await eventually(lambda: not len(face.live) and not face.quotas.open)


@pytest.mark.slow
async def test_tr_06_a_resource_that_never_reads_its_feed_is_cut_off_and_the_others_hear_everything():
    async with running_gateway() as running:
        snapshot = await asyncio.to_thread(running.identity("resource/orders").current)
        request = verifier_pb2.WatchRequest(audiences=[ORDERS])
        feed, now = running.gateway.application.feed, running.clock.now()
        watch = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/orders")).Watch(request)
        async with http2(running.gateway.port, tls_of(snapshot), window=0) as deaf:
            await watch.read()
            await deaf.call(1, WATCH)
            await deaf.say(1, request.SerializeToString())
            await eventually(lambda: feed.subscribers == 2)
            published, heard = [], []
            for _ in range(MAX_BACKLOG // 500 + 1):
                for _ in range(500):
                    published.append(ulid(now, system_entropy(10)))
                    feed.publish(RevokedGrant(published[-1], ORDERS, now + timedelta(minutes=1), "locked", now))
                while len(heard) < len(published):
                    event = await asyncio.wait_for(watch.read(), 30)
                    heard += [event.revoked.grant_id] if event.HasField("revoked") else []

            assert heard == published
            assert feed.subscribers == 1
