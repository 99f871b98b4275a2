"""The processes that are measured: trust domain, gateway, the demo's order system, and an echo; all on loopback, all mTLS."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.source import IdentitySource
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant_gateway.storage.inputs import make_recipient

DOMAIN: Final = "spiffe://dev.stepgrant.test"
GATEWAY: Final = f"{DOMAIN}/gateway"
ORDERS: Final = f"{DOMAIN}/resource/orders"
ECHO: Final = f"{DOMAIN}/resource/echo"
START_SECONDS: Final = 60
"""Longer than a child takes to start on a busy machine."""
STOP_SECONDS: Final = 10

_HERE: Final = Path(__file__).parent
_DEMO: Final = _HERE.parent / "examples" / "demo"
_STEPGRANT: Final = str(Path(sys.executable).with_name("stepgrant"))
_IDENTITIES: Final = ("gateway", "agent/support", "resource/orders", "resource/echo")
# As in production: full sync is the only mode there is, and inputs are sealed.
_GATEWAY_TOML: Final = f"""[gateway]
issuer = "{GATEWAY}"
listen = "127.0.0.1:0"
policy = "policy"
operators = ["{DOMAIN}/operator/jo"]
[identity]
source = "workload_api"
[ledger]
path = "ledger.db"
[inputs]
recipients = ["recipient.pem"]
[limits]
declares_per_second = 100000
opens_per_second = 10000
open_tasks = 20000
"""


@dataclass(frozen=True, slots=True)
class Rig:
    """Where everything listens, and the identity of the agent, which is this process."""

    gateway: str
    orders: str
    echo: str
    identity: IdentitySource


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Rig]:
    """All processes, ready; they end with the block. Their files and logs are in `directory`, which is short."""
    shutil.copytree(_DEMO / "policy", directory / "policy")
    (directory / "gateway.toml").write_text(_GATEWAY_TOML)
    (directory / "recipient.pem").write_bytes(make_recipient()[1])
    (directory / "dev.toml").write_text(
        "\n".join(f'[identities."{name}"]\ndns = ["localhost"]' for name in _IDENTITIES)
    )
    async with AsyncExitStack() as stack:

        async def child(name: str, *command: str, identity: str = "", **environment: str) -> dict[str, Any]:
            as_whom = (_STEPGRANT, "dev", "run", "--directory", "s", identity, "--") if identity else ()
            return await stack.enter_async_context(_child(name, directory, (*as_whom, *command), environment))

        trust = await child("trust", _STEPGRANT, "dev", "--config", "dev.toml", "--directory", "s", "--json")
        serve = (_STEPGRANT, "serve", "--config", "gateway.toml", "--json")
        gateway = (await child("gateway", *serve, identity="gateway"))["gateway"]
        of_gateway = {"STEPGRANT_GATEWAY": gateway, "STEPGRANT_GATEWAY_ID": GATEWAY}
        program = (sys.executable, "-u")
        orders = await child("orders", *program, str(_DEMO / "orders.py"), identity="resource/orders", **of_gateway)
        echo = await child("echo", *program, str(_HERE / "echo.py"), identity="resource/echo")
        source = WorkloadApiSource(trust["sockets"]["agent/support"])
        stack.callback(source.close)
        rig = Rig(gateway, orders["listening"], echo["listening"], source)
        async with channel(rig, rig.orders, ORDERS) as opened, asyncio.timeout(START_SECONDS):
            watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest())
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            watch.cancel()
        yield rig


@asynccontextmanager
async def channel(rig: Rig, address: str, expected: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `address`, pinned to the server that proved to be `expected`: what the SDK uses, for every contestant."""
    host, _, port = address.rpartition(":")
    snapshot = rig.identity.current()
    pinned = await asyncio.to_thread(
        probe_server, host, int(port), parse_spiffe_id(expected), snapshot, datetime.now(UTC)
    )
    credentials, options = grpc_channel_credentials(snapshot, pinned)
    async with grpc.aio.secure_channel(address, credentials, options=options) as opened:
        yield opened


@asynccontextmanager
async def _child(
    name: str, directory: Path, command: tuple[str, ...], environment: Mapping[str, str]
) -> AsyncIterator[dict[str, Any]]:
    """One process, by the first line of JSON that it says."""
    log = directory / f"{name}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=-1, stdout=-1, stderr=errors, cwd=directory, env={**os.environ, **environment}
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        yield said
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
