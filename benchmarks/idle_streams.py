"""What a stream costs that does nothing: memory of the gateway, and the time of one that does something beside it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from duels import duel
from effort import Effort
from figures import Findings
from observing import vitals
from rig import Rig, running
from streams import WARM_UP, GatewaySteps, task

PROCESSES: Final = 2
"""Client processes; the gateway is one."""
STREAMS_PER_CONNECTION: Final = 1_000
FIRST: Final = 50
"""Streams before the first look at the memory: what is loaded only once is then loaded."""
SETTLE_SECONDS: Final = 3.0
OPEN_SECONDS: Final = 600


async def measure(directory: Path, effort: Effort) -> Findings:
    """Two gateways in turns, alike but for the idle streams of one."""
    found = Findings()
    async with (
        running(directory) as crowded,
        running(directory.with_name("alone")) as alone,
        task(crowded) as beside,
        task(alone) as undisturbed,
        AsyncExitStack() as stack,
    ):
        for active in (beside, undisturbed):
            await _warm(active)
        await _idle(crowded, FIRST, stack)
        await asyncio.sleep(SETTLE_SECONDS)
        before, begun = vitals(crowded.server.pid)["rss_kib"], time.monotonic()
        await _idle(crowded, effort.idle_streams, stack)
        found.counts["idle_streams"] = effort.idle_streams
        found.counts["idle_streams_opened_per_s"] = effort.idle_streams / (time.monotonic() - begun)
        await asyncio.sleep(SETTLE_SECONDS)
        found.counts["idle_stream_kib"] = (vitals(crowded.server.pid)["rss_kib"] - before) / effort.idle_streams
        duelled = await duel(beside, undisturbed, turns=effort.turns // 2, steps=effort.steps, workers=1)
        found.duels["stream_p50_beside_idle"] = duelled
    return found


async def _warm(active: GatewaySteps) -> None:
    for _ in range(WARM_UP):
        await active.step()


async def _idle(rig: Rig, streams: int, stack: AsyncExitStack) -> None:
    """So many idle streams more, until the stack unwinds."""
    program = Path(__file__).with_name("idler.py")
    each = [streams // PROCESSES + (number < streams % PROCESSES) for number in range(PROCESSES)]
    starting = (
        stack.enter_async_context(
            rig.child(
                f"idler{streams}-{number}",
                program,
                str(count),
                str(-(-count // STREAMS_PER_CONNECTION)),
                within=OPEN_SECONDS,
            )
        )
        for number, count in enumerate(each)
    )
    await asyncio.gather(*starting)
