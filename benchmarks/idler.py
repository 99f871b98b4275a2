"""A client process with many open tasks that do nothing: `python idler.py GATEWAY STREAMS CONNECTIONS`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

import grpc
from streams import opened

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.workload import WorkloadApiSource

AT_ONCE: Final = 16
"""Openings that wait for their answer at the same time."""
OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)
"""Without it gRPC puts all channels to one address on one connection."""


async def main() -> None:
    """Opens all, says so, and waits for the end of the input."""
    streams, connections = int(sys.argv[1]), int(sys.argv[2])
    host, _, port = os.environ["STEPGRANT_GATEWAY"].rpartition(":")
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    snapshot = source.current()
    pinned = probe_server(
        host, int(port), parse_spiffe_id(os.environ["STEPGRANT_GATEWAY_ID"]), snapshot, datetime.now(UTC)
    )
    credentials, options = grpc_channel_credentials(snapshot, pinned)
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.secure_channel(f"{host}:{port}", credentials, options=[*options, OWN_CONNECTION])
            )
            for _ in range(connections)
        ]
        turns = asyncio.Semaphore(AT_ONCE)

        async def idle(number: int) -> object:
            async with turns:
                return await opened(channels[number % connections], snapshot.leaf_sha256)

        held = await asyncio.gather(*(idle(number) for number in range(streams)))
        print(json.dumps({"opened": len(held)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)  # Thousands of calls need not be ended one by one: the connections end.


if __name__ == "__main__":
    asyncio.run(main())
