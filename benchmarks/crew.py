"""Agents with many steps open at once: `python crew.py IDENTITY...`. Told by lines of JSON; keeps book of all it hears.

{"seconds": 8}    -> {"us": [from Declare to the answer, of each step]}
{"book": true}    -> {"granted": {grant: step}, "settled": [step], "denied": {code: count}}
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from clients import connected
from lines import Lines
from streams import GatewaySteps, declaration

STEPS: Final = 50
"""Open at once, of each agent."""
HELD_SECONDS: Final = 2.5
"""How long a step is open: what its work takes."""


class Agent:
    """One identity with one task."""

    def __init__(self, steps: GatewaySteps) -> None:
        self._steps = steps
        self.granted: dict[str, str] = {}
        self.settled: list[str] = []
        self.denied: Counter[str] = Counter()

    async def work(self, seconds: float) -> list[int]:
        """Keeps `STEPS` steps open for so long, and ends them all; microseconds of each declaration."""
        end = time.monotonic() + seconds
        taken: list[int] = []
        await asyncio.gather(*(self._work(end, taken) for _ in range(STEPS)))
        return taken

    async def _work(self, end: float, taken: list[int]) -> None:
        await asyncio.sleep(random.uniform(0, HELD_SECONDS))
        while time.monotonic() < end:
            declare = declaration()
            begun = time.perf_counter()
            answer = await self._steps.declare(declare)
            taken.append(round((time.perf_counter() - begun) * 1e6))
            if answer.WhichOneof("message") != "granted":
                self.denied[answer.denied.code] += 1
                continue
            self.granted[answer.granted.grant_id] = declare.step_id
            await asyncio.sleep(random.uniform(0, 2 * HELD_SECONDS))
            await self._steps.report(declare.step_id)
            self.settled.append(declare.step_id)


async def main() -> None:
    """Works as it is told."""
    lines = await Lines.open()
    async with AsyncExitStack() as stack:
        agents = [Agent(await stack.enter_async_context(connected(socket))) for socket in sys.argv[1:]]
        lines.say({"ready": len(agents)})
        while (asked := await lines.hear()) is not None:
            lines.say(await answer(agents, asked))
        os._exit(0)


async def answer(agents: list[Agent], asked: dict[str, Any]) -> dict[str, Any]:
    """What the agents did, or all that they heard."""
    if "seconds" in asked:
        taken = await asyncio.gather(*(agent.work(asked["seconds"]) for agent in agents))
        return {"us": [us for times in taken for us in times]}
    return {
        "granted": {grant: step for agent in agents for grant, step in agent.granted.items()},
        "settled": [step for agent in agents for step in agent.settled],
        "denied": sum((agent.denied for agent in agents), Counter[str]()),
    }


if __name__ == "__main__":
    asyncio.run(main())
