"""A whole installation under SPIRE: gateway, resource and agents, each a process that SPIRE tells apart by its binary."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from stepgrant.link import Address, parse_address
from tests.integration.spire.daemons import SpireAgent, SpireServer, free_port
from tests.integration.spire.processes import PATIENCE, Program
from tests.kit.pages import ROOT, page
from tests.kit.running import SUPPORT_POLICY

TRUST_DOMAIN: Final = "acme.org"
"""As in docs/operations.md, whose entries these are."""
GATEWAY: Final = "spiffe://acme.org/stepgrant"
ORDERS: Final = "spiffe://acme.org/resource/orders"
SUPPORT: Final = "spiffe://acme.org/agent/support"
OPERATOR: Final = "spiffe://acme.org/operator/jo"
PROXY: Final = "spiffe://acme.org/proxy/edge"
MAIL: Final = "https://mail.acme.org"
MAILBOXES: Final = "spiffe://acme.org/resource/mail"
ENVOY: Final = next(ROOT.glob(".venv-envoy/lib/python3*/site-packages/envoy/_bin/envoy"), ROOT / ".venv-envoy/envoy")
"""As `make envoy` installs it; where it is not there, none."""
LOCKED: Final = frozenset({"locked", "revoked"})
"""What a lock does to a step: the gateway ends it as `locked`, and a call that is on its way meets a grant that is `revoked`."""
STEPGRANT: Final = ("-c", "from stepgrant_gateway.cli import main; main()")
GATEWAY_TOML: Final = f"""
[gateway]
issuer = "{GATEWAY}"
listen = "127.0.0.1:0"
policy = "policy"
operators = ["{OPERATOR}"]
[identity]
source = "workload_api"
[ledger]
path = "ledger.db"
[inputs]
discard = true
"""
COMMANDS: Final = re.findall(r"^spire-server .*$", page("operations.md").replace("\\\n", ""), flags=re.MULTILINE)
"""What the page tells operators to type in."""
ENTRIES: Final = {
    entry[1]: entry[0]
    for line in COMMANDS
    if (entry := re.fullmatch(r"spire-server entry create -spiffeID (\S+) .*", line)) is not None
}
"""Of these, the commands that give everybody an identity, by SPIFFE ID."""


@dataclass(slots=True)
class Site:
    """One trust domain with two nodes: the gateway's, where everything but agents is, and the agents'."""

    folder: Path
    server: SpireServer
    node: SpireAgent
    agents: SpireAgent
    stack: AsyncExitStack
    ready: dict[str, Any] = field(default_factory=dict)

    async def register(self, *, federates_with: str = "") -> None:
        """Types in the page's entries, each with a binary of the party's own as its selector; the nodes have them then."""
        for spiffe_id, line in ENTRIES.items():
            selector = f"unix:path:{self.program(spiffe_id)}"
            served = federates_with if spiffe_id in {GATEWAY, ORDERS} else ""
            await self.server.type_in(line + served, {"NODE": self.home(spiffe_id).node, "SELECTOR": selector})
        for spiffe_id in ENTRIES:
            await self.home(spiffe_id).has_fetched(spiffe_id)

    def home(self, spiffe_id: str) -> SpireAgent:
        """The node where that party is."""
        return self.agents if spiffe_id == SUPPORT else self.node

    def program(self, spiffe_id: str) -> Path:
        """What that party runs."""
        return ENVOY if spiffe_id == PROXY else self.python(spiffe_id)

    def python(self, spiffe_id: str) -> Path:
        """The interpreter of that party: a file of its own, so that SPIRE's agent can tell it from the others."""
        home = self.folder / spiffe_id.rpartition("/")[2]
        program = home / "bin" / "python"
        if not program.exists():
            program.parent.mkdir(parents=True)
            real = Path(sys.executable).resolve()
            shutil.copy2(real, program)
            (home / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
        return program

    async def begin(self, spiffe_id: str, *arguments: str, node: SpireAgent | None = None, **variables: str) -> Program:
        """A process that SPIRE gives that identity, on its own node or on another."""
        node = node or self.home(spiffe_id)
        environment = {
            "SPIFFE_ENDPOINT_SOCKET": node.socket,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "GRPC_VERBOSITY": "NONE",
            **self.addresses,
            **variables,
        }
        log = self.folder / f"{spiffe_id.removeprefix('spiffe://').replace('/', '-')}.log"
        return await Program.begin(self.stack, [str(self.python(spiffe_id)), *arguments], log, environment)

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where everybody finds the gateway, once it serves."""
        return {"STEPGRANT_GATEWAY": self.ready["gateway"], "STEPGRANT_GATEWAY_ID": GATEWAY} if self.ready else {}

    def listen_bearer(self) -> str:
        """Has a gateway that is started now take bearer tokens, at the address that is returned."""
        config, listen = self.folder / "gateway.toml", 'listen = "127.0.0.1:0"'
        bearer = f"127.0.0.1:{free_port()}"
        config.write_text(config.read_text().replace(listen, f'{listen}\nlisten_bearer = "{bearer}"'))
        return bearer

    async def serve(self) -> Program:
        """The gateway, once it serves."""
        gateway = await self.begin(
            GATEWAY, *STEPGRANT, "serve", "--config", str(self.folder / "gateway.toml"), "--json"
        )
        await gateway.line("ready")
        self.ready = gateway.said[0]
        return gateway

    async def orders(self) -> tuple[str, Program]:
        """Address and process of the resource, once it can verify grants."""
        orders = await self.begin(ORDERS, "-m", "tests.integration.spire.programs.orders", ORDERS)
        await orders.line("ready")
        return await orders.line("listening"), orders

    async def mail(self) -> str:
        """Origin of the resource for agents without certificates, once it can verify grants."""
        selector = f"unix:path:{self.python(MAILBOXES)}"
        await self.server.tell(
            "entry", "create", "-spiffeID", MAILBOXES, "-parentID", self.node.node, "-selector", selector
        )
        await self.node.has_fetched(MAILBOXES)
        mail = await self.begin(MAILBOXES, "-m", "tests.integration.spire.programs.mail", MAIL)
        return str(await mail.line("listening"))

    async def working(self, orders: str, spiffe_id: str = SUPPORT, *, node: SpireAgent | None = None) -> Program:
        """An agent that opens one task and works for it, step after step, until that is over."""
        return await self.begin(spiffe_id, "-m", "tests.integration.spire.programs.agent", ORDERS, orders, node=node)

    async def reading(self, mail: str, *arguments: str, **variables: str) -> Program:
        """As `working`, at `mail`, for an agent that shows a JWT-SVID where the variables say."""
        program = ("-m", "tests.integration.spire.programs.bearer", MAIL, mail, *arguments)
        return await self.begin(SUPPORT, *program, STEPGRANT_CREDENTIAL="jwt", **variables)

    @property
    def address(self) -> Address:
        """The gateway's."""
        return parse_address(self.ready["gateway"], "the gateway")

    async def type_in(self, command: str, **variables: str) -> Any:
        """What SPIRE's server answers to the command of docs/operations.md that begins so, as JSON."""
        return json.loads(await self.server.type_in(f"{written(command)} -output json", variables))

    async def operate(self, *arguments: str, spiffe_id: str = OPERATOR) -> Any:
        """What `stepgrant ...` answers the operator, or another party, as JSON."""
        program = await self.begin(spiffe_id, *STEPGRANT, *arguments, "--json")
        await program.gone()
        await program.end()
        assert program.said, program.tail()
        return program.said[0]

    async def nobody_works(self) -> None:
        """Returns when the gateway has no open task; one whose stream was lost waits for its agent for some seconds."""
        async with asyncio.timeout(PATIENCE):
            while (await self.operate("tasks"))["tasks"]:
                pass


@asynccontextmanager
async def spire_site(*, svid_ttl: int, jwt_ttl: int = 20) -> AsyncIterator[Site]:
    """Server, two nodes and all entries; nothing of Stepgrant runs yet."""
    async with bare_site(svid_ttl=svid_ttl, jwt_ttl=jwt_ttl) as site:
        await site.register()
        yield site


@asynccontextmanager
async def bare_site(*, svid_ttl: int, federation: str = "", jwt_ttl: int = 20) -> AsyncIterator[Site]:
    """As `spire_site`, before anything is registered; values as of `SpireServer`."""
    # Socket paths are short, so not under pytest's own directory.
    with TemporaryDirectory(prefix="sp") as name:
        folder = Path(name)
        policy(folder / "policy")
        (folder / "gateway.toml").write_text(GATEWAY_TOML)
        async with AsyncExitStack() as stack:
            server = SpireServer(folder / "s", TRUST_DOMAIN, stack, svid_ttl, federation, jwt_ttl)
            await server.begin()
            yield Site(folder, server, await server.node("a"), await server.node("b"), stack)


def written(command: str) -> str:
    """The one command of docs/operations.md that begins so."""
    (line,) = [line for line in COMMANDS if line.startswith(f"spire-server {command}")]
    return line


def policy(folder: Path) -> None:
    """The support desk's policy, for `acme.org`."""
    shutil.copytree(SUPPORT_POLICY, folder)
    for file in folder.rglob("*.*"):
        file.write_text(file.read_text(encoding="utf-8").replace("dev.stepgrant.test", TRUST_DOMAIN), encoding="utf-8")


def events(gateway: Program, event: str) -> list[dict[str, Any]]:
    """What the gateway has logged under that name."""
    lines = (json.loads(line) for line in gateway.logged() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


def distinct(said: list[dict[str, Any]], key: str) -> list[Any]:
    """The values under that key, each once, in the order in which they came."""
    return list(dict.fromkeys(one[key] for one in said if key in one))


async def goes_on(agent: Program, steps: int = 20, within: float = PATIENCE) -> None:
    """Returns when so many more steps were done; a step that is refused ends the agent."""
    begun = len(agent.said)
    await agent.until(lambda said: sum("step" in one for one in said[begun:]) >= steps, within)
