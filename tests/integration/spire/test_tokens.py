"""JWT-SVIDs that SPIRE minted, at the gateway's listener for bearer tokens."""

from __future__ import annotations

from tests.integration.spire.daemons import real_spire
from tests.integration.spire.site import distinct, spire_site

pytestmark = list(real_spire)


async def test_an_agent_with_jwt_svids_of_spire_opens_a_task_and_works_across_their_rotation() -> None:
    """What is bound to a certificate is denied to it, whatever policy gives its workload."""
    async with spire_site(svid_ttl=600) as site:
        bearer = site.listen_bearer()
        await site.serve()
        agent = await site.reading(await site.mail(), STEPGRANT_GATEWAY=bearer)
        assert await agent.line("denied") == "certificate_required"
        await agent.until(lambda said: len(distinct(said, "step")) >= 3)
