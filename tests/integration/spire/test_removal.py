"""Who is to be out is out: evicted from SPIRE, or locked by an operator; and what goes on without SPIRE's server."""

from __future__ import annotations

from tests.integration.spire.daemons import real_spire
from tests.integration.spire.site import SUPPORT, distinct, goes_on, spire_site

pytestmark = list(real_spire)

THE_SVID_IS_OVER = {"identity_expiring", "identity_expired"}
"""What an agent is told in the last second of its SVID, and at its end."""


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
        assert await agent.line("stopped") == "locked"
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
        had = [distinct(program.said, "svid") for program in (agent, orders)]
        await goes_on(agent, 50)

        assert await agent.line("stopped") in {*THE_SVID_IS_OVER, "redemption_unavailable"}, agent.tail()
        await agent.until(lambda said: said[-1].get("not_opened") == "identity_unavailable")
        assert "expired at" in agent.said[-1]["text"]
        assert [distinct(program.said, "svid") for program in (agent, orders)] == had

        await site.server.begin()
        await goes_on(await site.working(address))
