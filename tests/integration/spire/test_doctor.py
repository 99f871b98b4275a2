"""`stepgrant doctor` where SPIRE has no entry, or half of one: what it says to type is typed in, and then all is well."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.integration.spire.daemons import real_spire
from tests.integration.spire.processes import PATIENCE
from tests.integration.spire.site import GATEWAY, Site, bare_site

pytestmark = list(real_spire)


async def test_what_doctor_says_to_type_gives_the_gateway_its_identity() -> None:
    async with bare_site(svid_ttl=600) as site:
        config, source = site.folder / "gateway.toml", 'source = "workload_api"'
        config.write_text(config.read_text().replace(source, f'{source}\nsocket = "{site.node.socket}"'))
        unregistered = await failure(site)
        assert "no entry for this process (PermissionDenied" in unregistered["says"]
        create = unregistered["command"].replace("AGENT", site.node.node)
        assert "-dns" in create
        await type_in(site, create.partition(" -dns")[0])

        nameless = await failure(site, other_than=unregistered["says"])
        assert f"the SVID of {GATEWAY} has no DNS name" in nameless["says"]
        _, update = nameless["command"].split("\n", 1)
        filled = update.replace("ENTRY", await site.server.entry(GATEWAY)).replace("AGENT", site.node.node)
        await type_in(site, filled.replace("SELECTOR", f"unix:path:{site.python(GATEWAY)}"))

        assert await failure(site, other_than=nameless["says"]) is None
        await site.serve()


async def failure(site: Site, *, other_than: str = "") -> Any:
    """The first check of the gateway's identity that fails, or None; once it is another one than before."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await site.operate("doctor", "--config", str(site.folder / "gateway.toml"), spiffe_id=GATEWAY)
            failed = [check for check in found["checks"] if check["state"] == "failed"]
            if not failed or failed[0]["says"] != other_than:
                return failed[0] if failed else None


async def type_in(site: Site, command: str) -> None:
    await site.server.type_in(command.replace("\\\n", ""), {})
