"""Rotation as SPIRE does it, while an agent works: of SVIDs in their time, and of the authority by an operator's hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant.errors import GatewayUnavailableError
from stepgrant.spiffe.bundles import BundleSet, bundle_from_pem
from tests.faults.waiting import eventually
from tests.integration.spire.daemons import real_spire
from tests.integration.spire.outside import channel_as, minted, shown_by, watching
from tests.integration.spire.processes import PATIENCE
from tests.integration.spire.site import ORDERS, TRUST_DOMAIN, distinct, events, goes_on, spire_site

pytestmark = list(real_spire)

ROTATIONS = 2


async def test_id_08_a_task_of_100_steps_goes_on_through_rotations_of_every_svid_and_no_step_is_refused() -> None:
    """One task: what refuses a step ends the agent's program. Steps that were live at a rotation go on as well."""
    async with spire_site(svid_ttl=20) as site:
        gateway = await site.serve()
        address, orders = await site.orders()
        agent = await site.working(address)
        await goes_on(agent, 100)
        await agent.until(
            lambda said: len(distinct(said, "step")) > ROTATIONS and len(distinct(said, "lasted")) >= ROTATIONS
        )
        await orders.until(lambda said: len(distinct(said, "svid")) > ROTATIONS)
        await eventually(lambda: len(events(gateway, "svid_rotated")) >= ROTATIONS, PATIENCE)
        await goes_on(agent)
        assert [one for one in agent.said if "task" in one] == agent.said[:1]


async def test_id_08_a_new_authority_of_spire_costs_no_step_and_what_the_old_one_signed_is_out() -> None:
    """In the order of docs/operations.md: removed as soon as everybody has an SVID of the new one, whatever connections are pinned to."""
    async with spire_site(svid_ttl=30) as site:
        await site.serve()
        address, orders = await site.orders()
        agent = await site.working(address)
        await goes_on(agent)
        old = await minted(site.server, ORDERS)
        async with channel_as(old, site.address) as channel:
            watched = await watching(channel, ORDERS)
            shown = await shown_by(site.address)
            shown_authorities = await site.server.ask("localauthority", "x509", "show")
            retiring = shown_authorities["active"]["authority_id"]

            prepared = await site.type_in("localauthority x509 prepare")
            for program in (orders, agent):
                await program.until(lambda said: any(one.get("authorities") == {TRUST_DOMAIN: 2} for one in said))
            await site.type_in("localauthority x509 activate", NEW=prepared["prepared_authority"]["authority_id"])
            await goes_on(agent)

            had = {program: len(distinct(program.said, "svid")) for program in (agent, orders)}
            await site.type_in("localauthority x509 taint", OLD=retiring)
            for program in (agent, orders):
                await program.until(lambda said, program=program: len(distinct(said, "svid")) > had[program])
            async with asyncio.timeout(PATIENCE):
                while await shown_by(site.address) == shown:  # noqa: ASYNC110 - nobody says when it shows another
                    await asyncio.sleep(0.05)

            await site.type_in("localauthority x509 revoke", OLD=retiring)
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                async with asyncio.timeout(PATIENCE):
                    while await watched.read() is not grpc.aio.EOF:
                        pass
            assert lost.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "does not verify any more" in str(lost.value.details())
        await goes_on(agent)

        bundle = bundle_from_pem(TRUST_DOMAIN, (await site.server.tell("bundle", "show")).encode())
        assert len(bundle.authorities) == 1
        with pytest.raises((GatewayUnavailableError, grpc.aio.AioRpcError)):
            async with channel_as(replace(old, bundles=BundleSet((bundle,))), site.address) as channel:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        await goes_on(agent)
