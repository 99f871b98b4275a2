"""A whole gateway on loopback, with an embedded trust domain: real mTLS, real policy, real ledger."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc

from stepgrant.client import Client
from stepgrant.link import Address
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.jwt_source import JwtSvidSource
from stepgrant.spiffe.jwt_workload import fetch_jwt_svid
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant_gateway.config import parse_config
from stepgrant_gateway.core.ports import Clock
from stepgrant_gateway.identity.dev import JWT_TTL, DevIdentity
from stepgrant_gateway.rpc.server import TRANSPORT, Transport
from stepgrant_gateway.system import SystemClock, system_entropy
from stepgrant_gateway.wiring import Gateway, World
from tests.kit.rotating import RotatingApi, RotatingDomain

ISSUER = "spiffe://dev.stepgrant.test/gateway"
SUPPORT_POLICY = Path(__file__).parents[2] / "examples" / "demo" / "policy"
IDENTITIES = (
    DevIdentity("gateway", ("localhost",)),
    DevIdentity("agent/support"),
    DevIdentity("agent/other"),
    DevIdentity("agent/payments"),
    DevIdentity("desk/tickets"),
    DevIdentity("proxy/edge", ("localhost",)),
    DevIdentity("resource/orders", ("localhost",)),
    DevIdentity("resource/mail", ("localhost",)),
    DevIdentity("operator/jo"),
)


@dataclass(slots=True)
class Running:
    """A running gateway, and whoever wants to talk to it."""

    gateway: Gateway
    api: RotatingApi
    domain: RotatingDomain
    clock: Clock
    stack: AsyncExitStack
    ledger: Path | None
    sources: dict[str, WorkloadApiSource] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        return Address("localhost", self.gateway.port)

    @property
    def bearer_address(self) -> Address:
        assert self.gateway.bearer_port is not None
        return Address("localhost", self.gateway.bearer_port)

    def token_identity(self, path: str, audience: str = ISSUER) -> JwtSvidSource:
        """The identity of that path, which shows a JWT-SVID for that audience."""
        socket = self.api.socket_for(path)
        source = JwtSvidSource(WorkloadApiSource(socket), partial(fetch_jwt_svid, socket), audience)
        self.stack.callback(source.close)
        return source

    async def bearer_client(self, path: str = "agent/support") -> Client:
        """The real SDK client of that workload, at the listener for bearer tokens."""
        source = self.token_identity(path)
        await asyncio.to_thread(source.current)
        client = Client(self.bearer_address, parse_spiffe_id(ISSUER), source)
        self.stack.push_async_callback(client.close)
        return client

    def identity(self, path: str) -> WorkloadApiSource:
        """The identity of that path, from its own Workload API socket."""
        if path not in self.sources:
            self.sources[path] = WorkloadApiSource(self.api.socket_for(path))
            self.stack.callback(self.sources[path].close)
        return self.sources[path]

    async def client(self, path: str = "agent/support") -> Client:
        """The real SDK client of that workload."""
        source = self.identity(path)
        await asyncio.to_thread(source.current)
        client = Client(self.address, parse_spiffe_id(ISSUER), source)
        self.stack.push_async_callback(client.close)
        return client

    async def channel(self, path: str) -> grpc.aio.Channel:
        """A bare channel of that workload, pinned to the gateway."""
        snapshot = await asyncio.to_thread(self.identity(path).current)
        pinned = await asyncio.to_thread(
            probe_server, "localhost", self.gateway.port, parse_spiffe_id(ISSUER), snapshot, self.clock.now()
        )
        credentials, options = grpc_channel_credentials(snapshot, pinned)
        channel = grpc.aio.secure_channel(f"localhost:{self.gateway.port}", credentials, options)
        return await self.stack.enter_async_context(channel)


@asynccontextmanager
async def running_gateway(
    policy: Path = SUPPORT_POLICY,
    *,
    ledger: Path | None = None,
    operators: tuple[str, ...] = ("operator/jo",),
    clock: Clock | None = None,
    settings: str = "",
    inputs: str = "discard = true",
    svid_ttl: timedelta = timedelta(days=3),
    jwt_ttl: timedelta | None = None,
    transport: Transport = TRANSPORT,
) -> AsyncIterator[Running]:
    """A gateway over `policy`; its ledger in memory, or at `ledger`; by the system's clock, or by `clock`.

    `settings`: further lines of its gateway.toml; `inputs`: those of that section; `transport`: what its connections may take.
    `jwt_ttl`: how long JWT-SVIDs are valid, and with it a listener for bearer tokens.
    """
    clock = clock or SystemClock()
    domain = RotatingDomain(IDENTITIES, clock.now, svid_ttl=svid_ttl, jwt_ttl=jwt_ttl or JWT_TTL)
    bearer = "" if jwt_ttl is None else 'listen_bearer = "127.0.0.1:0"'
    listed = ", ".join(f'"spiffe://dev.stepgrant.test/{path}"' for path in operators)
    recorded = "insecure_memory = true" if ledger is None else f'path = "{ledger}"'
    text = f"""
[gateway]
issuer = "{ISSUER}"
listen = "127.0.0.1:0"
{bearer}
policy = "{policy}"
operators = [{listed}]
[identity]
source = "workload_api"
[ledger]
{recorded}
[inputs]
{inputs}
{settings}
"""
    # Socket paths are short, so not under pytest's own directory.
    with tempfile.TemporaryDirectory(prefix="sg") as folder:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(RotatingApi(domain, Path(folder) / "s", clock))
            source = WorkloadApiSource(api.socket_for("gateway"), jwt_authorities=jwt_ttl is not None)
            config = parse_config(text.encode(), Path(folder) / "gateway.toml")
            gateway = await stack.enter_async_context(
                Gateway.start(config, World(clock, system_entropy, source, transport))
            )
            async with AsyncExitStack() as guests:
                yield Running(gateway, api, domain, clock, guests, ledger, {"gateway": source})
