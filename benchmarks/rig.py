"""What is measured: a trust domain, a gateway and who talks to it, as processes of their own, on loopback, all mTLS."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
from children import START_SECONDS, Child, child

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant_gateway.storage.inputs import make_recipient

DOMAIN: Final = "spiffe://dev.stepgrant.test"
GATEWAY: Final = f"{DOMAIN}/gateway"
ORDERS: Final = f"{DOMAIN}/resource/orders"
ECHO: Final = f"{DOMAIN}/resource/echo"
SUPPORT: Final = "agent/support"
"""The agent that the demo's policy is for; so is who lies below it."""
OPERATOR: Final = "operator/jo"
AMPLE: Final = "declares_per_second = 100000\nopens_per_second = 10000\nopen_tasks = 20000"
"""Limits that nobody runs into, where something else is measured."""

_HERE: Final = Path(__file__).parent
_DEMO: Final = _HERE.parent / "examples" / "demo"
STEPGRANT: Final = str(Path(sys.executable).with_name("stepgrant"))
SERVE: Final = (STEPGRANT, "serve", "--config", "gateway.toml", "--json")
_IDENTITIES: Final = ("gateway", OPERATOR, SUPPORT, "resource/orders", "resource/echo")
# As in production: full sync is the only mode there is, and inputs are sealed.
_GATEWAY_TOML: Final = f"""[gateway]
issuer = "{GATEWAY}"
listen = "127.0.0.1:0"
policy = "policy"
operators = ["{DOMAIN}/{OPERATOR}"]
[identity]
source = "workload_api"
[ledger]
path = "ledger.db"
[inputs]
recipients = ["recipient.pem"]
[limits]
"""


@dataclass(slots=True)
class Rig:
    """A running gateway, and a way to start who talks to it. Files and logs are in `directory`."""

    directory: Path
    trust: Child
    server: Child
    _stack: AsyncExitStack
    _sources: dict[str, WorkloadApiSource] = field(default_factory=dict)

    @property
    def gateway(self) -> str:
        """Where the gateway listens."""
        return str(self.server.said["gateway"])

    @property
    def identity(self) -> WorkloadApiSource:
        """The agent's."""
        return self.identity_of(SUPPORT)

    def identity_of(self, name: str) -> WorkloadApiSource:
        """The identity of that name, from its own Workload API socket."""
        if name not in self._sources:
            self._sources[name] = WorkloadApiSource(self.trust.said["sockets"][name])
            self._stack.callback(self._sources[name].close)
        return self._sources[name]

    def child(
        self, name: str, program: Path, *arguments: str, identity: str = SUPPORT, within: float = START_SECONDS
    ) -> AbstractAsyncContextManager[Child]:
        """A Python program as that identity, told of the gateway, once it has said its first line, `within` seconds."""
        environment = {
            "SPIFFE_ENDPOINT_SOCKET": self.trust.said["sockets"][identity],
            "STEPGRANT_GATEWAY": self.gateway,
            "STEPGRANT_GATEWAY_ID": GATEWAY,
        }
        command = (sys.executable, "-u", str(program), *arguments)
        return child(name, self.directory, command, environment, within=within)

    def guarded(self) -> AbstractAsyncContextManager[Child]:
        """The protected order system (`guarded`); its feed is trusted."""
        return self.child("orders", _HERE / "guarded.py", identity="resource/orders")

    def echo(self) -> AbstractAsyncContextManager[Child]:
        """The bare server (`echo`)."""
        return self.child("echo", _HERE / "echo.py", identity="resource/echo")


@asynccontextmanager
async def running(
    directory: Path, *, limits: str = AMPLE, agents: Sequence[str] = (), serve: Sequence[str] = SERVE
) -> AsyncIterator[Rig]:
    """A trust domain with `agents` beside those of the demo, and a gateway with `limits`. `directory` is new, and short."""
    _furnish(directory, limits, agents)
    dev = (STEPGRANT, "dev", "--config", "dev.toml", "--directory", "s", "--json")
    async with AsyncExitStack() as stack:
        trust = await stack.enter_async_context(child("trust", directory, dev, {}))
        environment = {"SPIFFE_ENDPOINT_SOCKET": trust.said["sockets"]["gateway"]}
        server = await stack.enter_async_context(child("gateway", directory, serve, environment))
        yield Rig(directory, trust, server, stack)


def _furnish(directory: Path, limits: str, agents: Sequence[str]) -> None:
    directory.mkdir(exist_ok=True)
    shutil.copytree(_DEMO / "policy", directory / "policy")
    (directory / "gateway.toml").write_text(_GATEWAY_TOML + limits)
    (directory / "recipient.pem").write_bytes(make_recipient()[1])
    identities = (f'[identities."{name}"]\ndns = ["localhost"]' for name in (*_IDENTITIES, *agents))
    (directory / "dev.toml").write_text("\n".join(identities))


@asynccontextmanager
async def channel(rig: Rig, address: str, expected: str, *, identity: str = SUPPORT) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `address`, pinned to the server that proved to be `expected`: what the SDK uses, for every contestant."""
    host, _, port = address.rpartition(":")
    source = rig.identity_of(identity)
    snapshot = await asyncio.to_thread(source.current)
    pinned = await asyncio.to_thread(
        probe_server, host, int(port), parse_spiffe_id(expected), snapshot, datetime.now(UTC)
    )
    credentials, options = grpc_channel_credentials(snapshot, pinned)
    async with grpc.aio.secure_channel(address, credentials, options=options) as opened:
        yield opened
