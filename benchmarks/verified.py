"""What it costs that both sides know each other by SPIFFE ID: a connection, and a message on one, against grpcio's own mTLS.

All of it goes to one server, in one process (`echo`): methods that verify who calls differ from the one that does not in
nothing else. A connection is timed from its beginning to the answer to its first call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from duels import duel
from echo import SIZE_BYTES, UNARY, VERIFIED, VERIFIED_ANEW
from effort import Effort
from figures import Findings
from rig import ECHO, Rig, channel, running

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server

MESSAGE: Final = (100).to_bytes(SIZE_BYTES, "big").ljust(100, b"\0")
"""100 bytes, and as many come back."""
FEWER: Final = 5
"""A connection takes several times as long as a message: as many fewer of them in a turn."""
# Else channels to one address share a connection.
_OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)
_WARM: Final = 20

Opens = Callable[[], Awaitable[grpc.aio.Channel]]


@dataclass(slots=True)
class Connections:
    """A new connection for each call."""

    opens: Opens
    method: str
    sizes: tuple[int, int] = (len(MESSAGE), len(MESSAGE))

    async def step(self) -> float:
        """See `streams.Contestant`."""
        begun = time.perf_counter()
        async with await self.opens() as opened:
            await opened.unary_unary(self.method)(MESSAGE)
            return time.perf_counter() - begun


@dataclass(slots=True)
class Messages:
    """Calls on one connection."""

    call: Any
    sizes: tuple[int, int] = (len(MESSAGE), len(MESSAGE))

    async def step(self) -> float:
        """See `streams.Contestant`."""
        begun = time.perf_counter()
        await self.call(MESSAGE)
        return time.perf_counter() - begun


async def measure(directory: Path, effort: Effort) -> Findings:
    """Connections whose client is verified, cold and warm; those whose server is, by the SDK; and verified messages."""
    found = Findings()
    async with running(directory) as rig, rig.echo() as bare, channel(rig, bare.said["listening"], ECHO) as opened:
        pinned, probed = await openers(rig, bare.said["listening"])
        plain = Connections(pinned, UNARY)
        contests = {
            "connection_verified_cold": Connections(pinned, VERIFIED_ANEW),
            "connection_verified_warm": Connections(pinned, VERIFIED),
            "connection_probed": Connections(probed, UNARY),
        }
        for contestant in (plain, *contests.values()):
            for _ in range(_WARM):
                await contestant.step()
        steps = max(effort.steps // FEWER, 1)
        for name, contestant in contests.items():
            found.duels[name] = await duel(contestant, plain, turns=effort.turns, steps=steps, workers=1)
        for name, method in {"message_verified": VERIFIED, "message_verified_cold": VERIFIED_ANEW}.items():
            ours, theirs = Messages(opened.unary_unary(method)), Messages(opened.unary_unary(UNARY))
            for contestant in (ours, theirs):
                for _ in range(_WARM):
                    await contestant.step()
            found.duels[name] = await duel(ours, theirs, turns=effort.turns, steps=effort.steps, workers=1)
    return found


async def openers(rig: Rig, address: str) -> tuple[Opens, Opens]:
    """What opens a connection with credentials that are ready, and what does as the SDK: probes, verifies and pins first."""
    host, _, port = address.rpartition(":")
    snapshot = await asyncio.to_thread(rig.identity.current)

    def prove() -> tuple[grpc.ChannelCredentials, list[Any]]:
        found = probe_server(host, int(port), parse_spiffe_id(ECHO), snapshot, datetime.now(UTC))
        credentials, options = grpc_channel_credentials(snapshot, found)
        return credentials, [*options, _OWN_CONNECTION]

    ready, options = await asyncio.to_thread(prove)

    async def pinned() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, ready, options)

    async def probed() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, *(await asyncio.to_thread(prove)))

    return pinned, probed
