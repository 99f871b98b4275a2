"""An agent that declares as fast as it can, and then faster: `python flooder.py IDENTITY`. Told by lines of JSON.

{"flood": true}    -> floods from now on
{"flood": false}   -> {"us": [], "answered": declarations that had an answer, "seconds": of the flood}
{"book": true}     -> as `crew`
"""

from __future__ import annotations

import asyncio
import os
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

STREAMS: Final = 4
IN_FLIGHT: Final = 48
"""Declarations of each stream that wait for an answer: below what makes the gateway end the stream."""
NICE: Final = 10
"""A flooder has a machine of its own; here it must not take the processor from those that are measured."""


class Flood:
    """Declares on every stream, reports what it is granted, and keeps book."""

    def __init__(self, streams: list[GatewaySteps]) -> None:
        self._streams = streams
        self._on = False
        self._begun = 0.0
        self._working: list[asyncio.Task[None]] = []
        self._answered = 0
        self.granted: dict[str, str] = {}
        self.settled: list[str] = []
        self.denied: Counter[str] = Counter()

    def begin(self) -> None:
        """Floods from now on."""
        self._on, self._answered, self._begun = True, 0, time.monotonic()
        self._working = [asyncio.create_task(self._pour(steps)) for steps in self._streams for _ in range(IN_FLIGHT)]

    async def end(self) -> dict[str, Any]:
        """Stops, and says how much it was."""
        self._on = False
        seconds = time.monotonic() - self._begun
        answered = self._answered
        await asyncio.gather(*self._working)
        return {"answered": answered, "seconds": seconds}

    async def _pour(self, steps: GatewaySteps) -> None:
        while self._on:
            declare = declaration()
            answer = await steps.declare(declare)
            self._answered += 1
            if answer.WhichOneof("message") != "granted":
                self.denied[answer.denied.code] += 1
                continue
            self.granted[answer.granted.grant_id] = declare.step_id
            await steps.report(declare.step_id)
            self.settled.append(declare.step_id)


async def main() -> None:
    """Floods as it is told."""
    os.nice(NICE)
    lines = await Lines.open()
    async with AsyncExitStack() as stack:
        flood = Flood([await stack.enter_async_context(connected(sys.argv[1])) for _ in range(STREAMS)])
        lines.say({"ready": True})
        while (asked := await lines.hear()) is not None:
            if "book" in asked:
                lines.say({"granted": flood.granted, "settled": flood.settled, "denied": flood.denied})
            elif asked["flood"]:
                flood.begin()
            else:
                lines.say(await flood.end())
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
