"""A gateway in a process of its own, on a ledger, a port and a trust domain that outlive it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import grpc

from stepgrant.client import Client
from stepgrant.link import Address
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant_gateway.identity.dev import DevTrustDomain
from stepgrant_gateway.identity.dev_workload_api import DevWorkloadApi
from stepgrant_gateway.system import SystemClock
from tests.kit.running import IDENTITIES, ISSUER, SUPPORT_POLICY

PATIENCE: Final = 60.0
"""Seconds that anything may take before it counts as hung."""
STARTS: Final = 5
FIRST_PORT: Final = 21000
"""Below what systems hand out by themselves: nobody takes the port while no gateway lives."""
STEPGRANT: Final = (sys.executable, "-c", "from stepgrant_gateway.cli import main; main()")
GATEWAY_TOML: Final = """
[gateway]
issuer = "{issuer}"
listen = "127.0.0.1:{port}"
policy = "{policy}"
operators = ["spiffe://dev.stepgrant.test/operator/jo"]
[identity]
source = "workload_api"
[ledger]
path = "{ledger}"
snapshot_every = {snapshot_every}
[inputs]
discard = true
"""


@dataclass(slots=True)
class Life:
    """One gateway process. `ready` False: it ended before it served."""

    process: asyncio.subprocess.Process
    ready: bool
    instance_id: str
    log: Path

    async def ended(self) -> int:
        """Its exit status, once it has one."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def hung(self) -> bool:
        """Returns when its disk hangs (`dying`), or it has ended without."""
        assert self.process.stdout is not None
        return bool(await self.process.stdout.readline())

    async def stop(self) -> None:
        """Ends this process, whatever it does."""
        if self.process.returncode is None:
            self.process.kill()
            await self.ended()

    def said(self) -> list[str]:
        """What it wrote on standard error, line by line."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()


@dataclass(slots=True)
class Site:
    """What outlives gateways: folder, ledger, port, trust domain, and the identities of who talks to them."""

    folder: Path
    ledger: Path
    port: int
    api: DevWorkloadApi
    stack: AsyncExitStack
    snapshot_every: int = 10_000
    sources: dict[str, WorkloadApiSource] = field(default_factory=dict)

    async def begin(self, *, command: tuple[str, ...] = STEPGRANT) -> Life:
        """A gateway, once it serves or has ended; `command` comes before `serve`."""
        life = await self._begin(command)
        for _ in range(STARTS - 1):
            # On a machine with too much to do its Workload API, which is ours, came too late: it has not seen its ledger.
            if any("identity_unavailable" in line for line in life.said()):
                life = await self._begin(command)
        return life

    async def _begin(self, command: tuple[str, ...]) -> Life:
        text = GATEWAY_TOML.format(
            issuer=ISSUER, port=self.port, policy=SUPPORT_POLICY, ledger=self.ledger.absolute(),
            snapshot_every=self.snapshot_every,
        )  # fmt: skip
        config, log = self.folder / "gateway.toml", self.folder / "log"
        config.write_text(text, encoding="utf-8")
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, "serve", "--config", str(config), "--json",
                stdout=asyncio.subprocess.PIPE, stderr=errors,
                env={**os.environ, "SPIFFE_ENDPOINT_SOCKET": self.api.socket_for("gateway")},
            )  # fmt: skip
        self.stack.push_async_callback(Life(process, False, "", log).stop)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        said = json.loads(line) if line else {}
        life = Life(process, "ready" in said, said.get("instance", ""), log)
        if "hung" in said:
            await life.stop()
        elif not life.ready:
            await life.ended()
        return life

    async def identity(self, path: str) -> WorkloadApiSource:
        """The identity of that path, from its own Workload API socket."""
        if path not in self.sources:
            self.sources[path] = WorkloadApiSource(self.api.socket_for(path))
            self.stack.callback(self.sources[path].close)
            await asyncio.to_thread(self.sources[path].current)
        return self.sources[path]

    async def client(self, path: str = "agent/support") -> Client:
        """The real SDK client of that workload, for as long as the site is there."""
        client = Client(Address("localhost", self.port), parse_spiffe_id(ISSUER), await self.identity(path))
        self.stack.push_async_callback(client.close)
        return client

    @asynccontextmanager
    async def channel(self, path: str) -> AsyncIterator[grpc.aio.Channel]:
        """A bare channel of that workload, pinned to the gateway of now."""
        snapshot = (await self.identity(path)).current()
        pinned = await asyncio.to_thread(
            probe_server, "localhost", self.port, parse_spiffe_id(ISSUER), snapshot, SystemClock().now()
        )
        credentials, options = grpc_channel_credentials(snapshot, pinned)
        async with grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options) as channel:
            yield channel


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """A site without a gateway."""
    clock = SystemClock()
    domain = DevTrustDomain(IDENTITIES, clock.now, svid_ttl=timedelta(days=3))
    # Socket paths are short, so not under pytest's own directory.
    with TemporaryDirectory(prefix="sg") as name:
        folder = Path(name)
        async with AsyncExitStack() as outer:
            api = await outer.enter_async_context(DevWorkloadApi(domain, folder / "s", clock))
            async with AsyncExitStack() as stack:
                yield Site(folder, folder / "ledger.db", _free_port(), api, stack)


def _free_port() -> int:
    # By process id, so that two runs on one machine do not look at the same port first.
    for port in (FIRST_PORT + (os.getpid() + step) % 1000 for step in range(1000)):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"none of the 1000 ports from {FIRST_PORT} on is free")
