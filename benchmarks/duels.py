"""Two contestants in turns, over the wire."""

from __future__ import annotations

import asyncio

from figures import Duel
from streams import Contestant


async def duel(ours: Contestant, theirs: Contestant, *, turns: int, steps: int, workers: int) -> Duel:
    """Turns of both, each beginning every other one."""
    result = Duel()
    for turn in range(turns):
        order = ((ours, result.ours), (theirs, result.theirs))
        for contestant, times in order if turn % 2 else reversed(order):
            times.append(await one_turn(contestant, steps, workers))
    return result


async def one_turn(contestant: Contestant, steps: int, workers: int) -> list[float]:
    """The seconds of each step."""

    async def work() -> list[float]:
        return [await contestant.step() for _ in range(steps)]

    done = await asyncio.gather(*(work() for _ in range(workers)))
    return [seconds for times in done for seconds in times]
