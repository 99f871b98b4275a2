"""Who is to be out is out: evicted from SPIRE, or locked by an operator; and what goes on without SPIRE's server."""

from __future__ import annotations

import asyncio

import grpc

from stepgrant_gateway.system import SystemClock
from tests.integration.spire.daemons import real_spire
from tests.integration.spire.outside import channel_as, minted
from tests.integration.spire.processes import PATIENCE
from tests.integration.spire.site import GATEWAY, LOCKED, ORDERS, SUPPORT, distinct, goes_on, spire_site
from tests.kit.agent import Agent, declaring

pytestmark = list(real_spire)

THE_SVID_IS_OVER = {"identity_expiring", "identity_expired"}
"""What an agent is told in the last second of its SVID, and at its end."""
SPIRE_TRIES_AGAIN = 240.0
"""Seconds within which an agent of SPIRE's has asked again a server that was away."""


async def test_an_evicted_workload_gets_no_new_svid_and_its_stream_ends_with_the_old_one() -> None:
    """The node is evicted and the entry deleted: SPIRE's agent there is gone, and with it whatever could bring an SVID."""
    async with spire_site(svid_ttl=20) as site:
        await site.serve()
        address, _ = await site.orders()
        agent = await site.working(address)
        await goes_on(agent)
        await site.type_in("agent evict", NODE=site.agents.node)
        await site.type_in("entry delete", ENTRY=await site.server.entry(SUPPORT))
        await site.agents.process.gone()
        had = distinct(agent.said, "svid")
        await goes_on(agent, 1)

        assert await agent.line("stopped") in THE_SVID_IS_OVER, agent.tail()
        assert distinct(agent.said, "svid") == had
        await agent.until(lambda said: said[-1].get("not_opened") == "identity_unavailable")
        assert "expired at" in agent.said[-1]["text"]
        await site.nobody_works()


async def test_id_07_a_thief_with_the_svid_of_a_deleted_workload_loses_stream_and_grant_when_it_ends() -> None:
    """Nobody tells a thief anything, and its stream knows no Workload API: the gateway ends both, at the SVID's end."""
    async with spire_site(svid_ttl=600) as site:
        await site.serve()
        stolen = await minted(site.server, SUPPORT, ttl="20s")
        await site.type_in("entry delete", ENTRY=await site.server.entry(SUPPORT))
        async with channel_as(stolen, site.address) as channel:
            thief = Agent(channel)
            parameters = '{"customer":"jo@x.org","order_id":"ord_00000042"}'
            await thief.open(certificate=stolen.leaf_sha256, gateway=GATEWAY, parameters_json=parameters)
            await thief.send(declare=declaring())
            granted = (await thief.read()).granted
            assert granted.expires_unix_ms <= stolen.not_after.timestamp() * 1000
            said = await last_words(thief)
        assert said[-1] == "closed identity_expired"
        assert said[0].startswith("revoked ")
        assert SystemClock().now() >= stolen.not_after
        await site.nobody_works()


async def last_words(thief: Agent) -> list[str]:
    """What the gateway says until the stream ends."""
    said: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while (message := await thief.call.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("message")
            said.append(f"{kind} {getattr(message, kind).code}")
    return said


async def test_a_deleted_entry_ends_what_the_workload_does_within_seconds() -> None:
    """SPIRE's agent says PermissionDenied, and when it goes on saying so the SDK takes it at its word."""
    async with spire_site(svid_ttl=600) as site:
        await site.serve()
        address, _ = await site.orders()
        agent = await site.working(address)
        await goes_on(agent)
        await site.type_in("entry delete", ENTRY=await site.server.entry(SUPPORT))

        assert "PermissionDenied" in await agent.line("no_svid")
        await agent.line("stopped")
        assert await agent.line("not_opened") == "identity_unavailable"
        await site.nobody_works()


async def test_a_lock_on_the_workload_acts_at_once_however_long_its_svid_lives() -> None:
    async with spire_site(svid_ttl=3600) as site:
        await site.serve()
        address, _ = await site.orders()
        agent = await site.working(address)
        await goes_on(agent)
        lock = await site.operate("lock", "--workload", SUPPORT, "--reason", "INC-42")
        assert lock["ended_steps"] >= 1
        assert await agent.line("stopped") in LOCKED
        assert await agent.line("not_opened") == "locked"
        assert len(distinct(agent.said, "svid")) == 1

        await site.operate("unlock", lock["lock"]["lock_id"], "--reason", "INC-42 is over")
        await goes_on(await site.working(address))


async def test_without_spires_server_work_goes_on_until_the_svids_expire_and_again_when_it_is_back() -> None:
    async with spire_site(svid_ttl=20) as site:
        await site.serve()
        address, orders = await site.orders()
        agent = await site.working(address)
        await goes_on(agent)
        await site.server.end()
        await goes_on(agent, 50)
        had = [distinct(program.said, "svid") for program in (agent, orders)]

        stopped, text = await agent.line("stopped"), await agent.line("text")
        # Gateway, resource and agent lose their SVIDs within seconds; whose is first says how the agent hears of it.
        assert stopped in {*THE_SVID_IS_OVER, "redemption_unavailable"} or "expired at" in text, agent.tail()
        await agent.until(lambda said: said[-1].get("not_opened") == "identity_unavailable")
        assert "expired at" in agent.said[-1]["text"]
        assert [distinct(program.said, "svid") for program in (agent, orders)] == had

        before = {party: site.home(party).fetched(party) for party in (GATEWAY, ORDERS, SUPPORT)}
        await site.server.begin()
        for party, count in before.items():
            await site.home(party).has_fetched(party, count + 1)
        # What was tried while the server was coming up counts, too, and SPIRE's agents try again ever more rarely.
        await goes_on(await site.working(address), within=SPIRE_TRIES_AGAIN)
