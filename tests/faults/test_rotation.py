"""Rotation under load, with the embedded trust domain: no step is refused, and what is removed is out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant.errors import GatewayUnavailableError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.source import IdentitySnapshot
from stepgrant.v1 import verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.identity.dev import DEV_TRUST_DOMAIN
from tests.faults.rotating import PARAMETERS, PATIENCE, loaded
from tests.kit.running import IDENTITIES, ISSUER, Running, running_gateway
from tests.kit.servers import ORDERS

pytestmark = pytest.mark.slow

ALL = tuple(identity.path for identity in IDENTITIES)
TURNS = 2


async def settled(running: Running) -> None:
    """Returns when every source has what the Workload API hands out now."""
    async with asyncio.timeout(PATIENCE):
        for path, source in running.sources.items():
            while not _has_newest(running, path, source.current()):  # noqa: ASYNC110 - no event says "newest"
                await asyncio.sleep(0.005)


def _has_newest(running: Running, path: str, snapshot: IdentitySnapshot) -> bool:
    bundle = snapshot.bundles.get(DEV_TRUST_DOMAIN)
    same = bundle is not None and set(bundle.authorities) == set(running.domain.bundle.authorities)
    return same and snapshot.chain_der == running.api.svid(path).chain_der


async def rotate(running: Running, *paths: str) -> None:
    running.api.reissue(*paths)
    await settled(running)


async def test_id_08_new_leaves_of_gateway_resources_and_agents_under_load_refuse_no_step() -> None:
    """Each in its turn, several times over, while steps are declared, redeemed and reported; tasks outlive some turns."""
    async with running_gateway() as running, loaded(running) as load:
        await load.goes_on()
        for _ in range(TURNS):
            for path in ("gateway", "resource/orders", "resource/mail", "agent/support"):
                await rotate(running, path)
                await load.goes_on(15)
    assert load.refused == []
    assert load.tasks > TURNS


async def test_tk_15_signing_keys_rotate_under_load_and_no_step_is_refused() -> None:
    async with running_gateway() as running, loaded(running) as load:
        application = running.gateway.application
        for _ in range(TURNS):
            await load.goes_on(20)
            application.keys.rotate(application.feed.publish)
        await load.goes_on(20)
    assert load.refused == []


async def test_id_08_a_new_authority_under_load_and_with_the_old_one_its_leaves_and_streams_go_out() -> None:
    """As SPIRE does it: published, leaves moved, the old one taken out of the bundle."""
    async with running_gateway() as running, loaded(running) as load:
        old = running.sources["resource/orders"].current()
        watch = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/orders")).Watch(
            verifier_pb2.WatchRequest(audiences=[ORDERS])
        )
        await load.goes_on(20)
        running.domain.prepare()
        await rotate(running)
        await load.goes_on(20)
        running.domain.activate()
        await rotate(running, *ALL)
        await load.goes_on(100)
        await watch.read()
        running.domain.remove()
        await rotate(running)
        await load.goes_on(20)

        with pytest.raises(grpc.aio.AioRpcError) as lost:
            async with asyncio.timeout(PATIENCE):
                while await watch.read() is not grpc.aio.EOF:
                    pass
        assert lost.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await refused(running, old)
    assert load.refused == []


async def test_id_08_a_step_lives_on_when_the_authority_goes_right_after_the_gateways_new_certificate() -> None:
    """The agent came to its new SVID before the gateway did, so its connection is pinned to the earlier certificate."""
    async with running_gateway() as running:
        client = await running.client()
        running.domain.prepare()
        await rotate(running)
        running.domain.activate()
        await rotate(running, "agent/support")
        async with (
            client.task("Refund", PARAMETERS) as task,
            task.step("orders.get", {"order_id": "ord_00000042"}) as step,
        ):
            link = next(iter(client._links._all))
            await rotate(running, "gateway", "resource/orders", "resource/mail")
            assert link.vouched_for()
            running.domain.remove()
            await rotate(running)
            async with asyncio.timeout(PATIENCE):
                while link in client._links._all:  # noqa: ASYNC110 - no event says "left"
                    await asyncio.sleep(0.005)
            assert not link.vouched_for()
            await step.renew()
            assert step.live


async def refused(running: Running, old: IdentitySnapshot) -> bool:
    """True if a new connection that shows an SVID of the removed authority gets no answer."""
    me = replace(old, bundles=running.sources["resource/orders"].current().bundles)
    gateway = parse_spiffe_id(ISSUER)
    try:
        pinned = await asyncio.to_thread(
            probe_server, "localhost", running.gateway.port, gateway, me, running.clock.now()
        )
        credentials, options = grpc_channel_credentials(me, pinned)
        async with grpc.aio.secure_channel(f"localhost:{running.gateway.port}", credentials, options) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    except (GatewayUnavailableError, grpc.aio.AioRpcError):
        return True
    return False


async def test_id_07_an_svid_that_runs_out_under_load_ends_what_came_with_it_and_its_successor_goes_on() -> None:
    """SVIDs of seconds, rotated at half their life by the Workload API itself, while steps go on."""
    async with running_gateway(svid_ttl=timedelta(seconds=10)) as running, loaded(running, workers=2) as load:
        first = running.sources["agent/support"].current()
        while running.clock.now() < first.not_after:
            await load.goes_on(5)
        assert running.sources["agent/support"].current().leaf_sha256 != first.leaf_sha256
        await load.goes_on(10)
    assert load.refused == []
