"""Waiting for what nobody tells: a condition that comes true soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE = 30.0
"""Seconds until it counts as never."""


async def eventually(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Returns when the condition holds; fails the test when it does not within so many seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is waited for is in gRPC's core, and it has no event
            await asyncio.sleep(0.005)
