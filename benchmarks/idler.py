"""A client process with many open tasks that do nothing: `python idler.py GATEWAY STREAMS CONNECTIONS`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Final

from clients import channel_of
from streams import opened

AT_ONCE: Final = 16
"""Openings that wait for their answer at the same time."""


async def main() -> None:
    """Opens all, says so, and waits for the end of the input."""
    streams, connections = int(sys.argv[1]), int(sys.argv[2])
    socket = os.environ["SPIFFE_ENDPOINT_SOCKET"]
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(channel_of(socket)) for _ in range(connections)]
        turns = asyncio.Semaphore(AT_ONCE)

        async def idle(number: int) -> object:
            async with turns:
                return await opened(*channels[number % connections])

        held = await asyncio.gather(*(idle(number) for number in range(streams)))
        print(json.dumps({"opened": len(held)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)  # Thousands of calls need not be ended one by one: the connections end.


if __name__ == "__main__":
    asyncio.run(main())
