"""How the processes of agents reach the gateway that STEPGRANT_GATEWAY names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import grpc
from streams import GatewaySteps, opened

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.workload import WorkloadApiSource

OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)
"""Without it gRPC puts all channels to one address on one connection."""


@asynccontextmanager
async def channel_of(socket: str) -> AsyncIterator[tuple[grpc.aio.Channel, bytes]]:
    """A connection of the identity behind a Workload API socket, and the SHA-256 of the certificate that it shows."""
    host, _, port = os.environ["STEPGRANT_GATEWAY"].rpartition(":")
    source = WorkloadApiSource(socket)
    snapshot = await asyncio.to_thread(source.current)
    server = parse_spiffe_id(os.environ["STEPGRANT_GATEWAY_ID"])
    pinned = await asyncio.to_thread(probe_server, host, int(port), server, snapshot, datetime.now(UTC))
    credentials, options = grpc_channel_credentials(snapshot, pinned)
    async with grpc.aio.secure_channel(f"{host}:{port}", credentials, options=[*options, OWN_CONNECTION]) as channel:
        yield channel, snapshot.leaf_sha256
    source.close()


@asynccontextmanager
async def connected(socket: str) -> AsyncIterator[GatewaySteps]:
    """A fresh task of that identity, on a connection of its own."""
    async with channel_of(socket) as (channel, certificate):
        conversation = await opened(channel, certificate)
        try:
            yield GatewaySteps(conversation)
        finally:
            conversation.end()
