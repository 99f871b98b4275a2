"""A whole gateway whose wall clock the test sets while everybody else's is right: real mTLS, policy, ledger and time."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from stepgrant.client import Client
from stepgrant.link import Address
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.verify import Verifier
from stepgrant_gateway.config import parse_config
from stepgrant_gateway.system import SystemClock, system_entropy
from stepgrant_gateway.wiring import Gateway, World
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.running import ISSUER, SUPPORT_POLICY

GATEWAY_TOML = f"""
[gateway]
issuer = "{ISSUER}"
listen = "127.0.0.1:0"
policy = "{SUPPORT_POLICY}"
[identity]
source = "workload_api"
[ledger]
path = "ledger.db"
[inputs]
discard = true
"""


class SetClock(SystemClock):
    """The system's clock, its wall time `ahead` of the right one."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


@dataclass(slots=True)
class Clocked:
    """One life of the gateway, and who talks to it. Their SVIDs are valid by every clock."""

    gateway: Gateway
    domain: TestAuthority
    stack: AsyncExitStack

    def client(self) -> Client:
        """The real SDK client of the support agent."""
        identity = FixedSource(self.domain.snapshot("agent/support"))
        client = Client(Address("localhost", self.gateway.port), parse_spiffe_id(ISSUER), identity)
        self.stack.push_async_callback(client.close)
        return client

    async def verifier(self) -> Verifier:
        """The real verifier of the orders' server, ready; its clock is right."""
        orders = f"spiffe://{self.domain.trust_domain}/resource/orders"
        connecting = Verifier.connect(
            gateway=f"localhost:{self.gateway.port}",
            gateway_id=ISSUER,
            audience=orders,
            identity=FixedSource(self.domain.snapshot(orders)),
        )
        verifier = await self.stack.enter_async_context(connecting)
        await verifier.ready()
        return verifier


@asynccontextmanager
async def site() -> AsyncIterator[tuple[Path, TestAuthority]]:
    """What outlives gateways: a folder with the ledger, and the trust domain."""
    with tempfile.TemporaryDirectory(prefix="sg") as folder:
        yield Path(folder), TestAuthority("dev.stepgrant.test")


@asynccontextmanager
async def life(
    place: tuple[Path, TestAuthority], clock: SetClock, *, ahead_until: datetime | None = None
) -> AsyncIterator[Clocked]:
    """A gateway by this clock, on what outlives it."""
    folder, domain = place
    identity = FixedSource(domain.snapshot("gateway", dns=["localhost"]))
    config = parse_config(GATEWAY_TOML.encode(), folder / "gateway.toml")
    async with AsyncExitStack() as guests:
        starting = Gateway.start(config, World(clock, system_entropy, identity), ahead_until=ahead_until)
        async with starting as gateway, guests:
            yield Clocked(gateway, domain, guests)
