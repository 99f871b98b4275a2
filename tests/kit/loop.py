"""Waiting for what other coroutines on the same loop are about to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def settled(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Returns as soon as `condition` holds, looking again each time the loop has gone round; TimeoutError otherwise."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event: what is awaited is the loop's own progress
            await asyncio.sleep(0)


async def interrupted(seconds: float = 5) -> None:
    """Where a body waits to be cancelled; TimeoutError when nobody does."""
    await asyncio.wait_for(asyncio.Event().wait(), seconds)
