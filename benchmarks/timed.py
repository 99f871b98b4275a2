"""`stepgrant serve` with a stopwatch at the seams of one decision; it answers each line on its standard input with medians.

{}   -> {"parts": [{"name": ..., "us": ...}, ...]}

For one declaration at a time. Each look at the clock takes part of a microsecond itself.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from lines import Lines

from stepgrant_gateway.app import granting
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.app.writing import ChainWriter
from stepgrant_gateway.cli.serve import suit_interpreter, until_signalled
from stepgrant_gateway.config import load_config
from stepgrant_gateway.policy.sets import LoadedPolicySet
from stepgrant_gateway.rpc import wire
from stepgrant_gateway.rpc.outbox import Outbox
from stepgrant_gateway.rpc.stream import TaskStream
from stepgrant_gateway.storage.sqlite import SqliteLedger
from stepgrant_gateway.tokens.mint import GrantMinter
from stepgrant_gateway.wiring import Gateway

SEAMS: Final[tuple[tuple[Any, str, str, str], ...]] = (
    (wire, "declare_of", "", "the message, and its arguments read strictly"),
    (granting.Granting, "_prepare", "", "the call held against the catalog"),
    (granting, "intent_digest", "", "the digest of the intent"),
    (LoadedPolicySet, "evaluate", "what the decision sees: state, locks, budgets", "the policy: index, request, Cedar"),
    (Recorder, "record", "terms, grant, state, the event", "given to the ledger"),
    (GrantMinter, "mint", "the claims", "the signature"),
    (ChainWriter, "write", "until the ledger's thread has it", ""),
    (SqliteLedger, "append", "chaining and sealing", "the commit, synced"),
    (Recorder, "_written", "until the loop hears of it", ""),
    (Outbox, "put", "the answer, as a message", ""),
)
"""In the order of a decision: what is called, and what has taken place before it and in it."""
FIRST: Final = "_start"
"""Of a stream: it has read a message."""


class Stopwatch:
    """Moments of the declaration that is under way, and what became of earlier ones."""

    def __init__(self) -> None:
        self._under_way: list[tuple[str, float]] | None = None
        self._done: dict[str, list[float]] = {}

    def begin(self) -> None:
        """A declaration has been read."""
        self._under_way = [("", time.perf_counter())]

    def pass_(self, seam: str) -> None:
        """One part is over."""
        if self._under_way is not None:
            self._under_way.append((seam, time.perf_counter()))

    def end(self) -> None:
        """The declaration is answered."""
        under_way, self._under_way = self._under_way or [], None
        for (_, begun), (name, over) in pairwise(under_way):
            self._done.setdefault(name, []).append((over - begun) * 1e6)

    def take(self) -> list[dict[str, Any]]:
        """Medians, in order; begins anew."""
        done, self._done = self._done, {}
        return [{"name": name, "us": round(statistics.median(times), 1)} for name, times in done.items()]


def watch(stopwatch: Stopwatch) -> None:
    """Puts the stopwatch between the parts of this process."""
    start = getattr(TaskStream, FIRST)

    def started(self: TaskStream, number: int, message: Any) -> bool:
        if message.WhichOneof("message") == "declare":
            stopwatch.begin()
        return start(self, number, message)

    setattr(TaskStream, FIRST, started)
    for owner, name, before, after in SEAMS:
        setattr(owner, name, _watched(getattr(owner, name), stopwatch, before, after, last=name == "put"))


def _watched(
    call: Callable[..., Any], stopwatch: Stopwatch, before: str, after: str, *, last: bool
) -> Callable[..., Any]:
    def watched(*args: Any, **named: Any) -> Any:
        if before:
            stopwatch.pass_(before)
        answer = call(*args, **named)
        if after:
            stopwatch.pass_(after)
        if last:
            stopwatch.end()
        return answer

    return watched


async def main() -> None:
    """Serves until SIGTERM."""
    stopwatch = Stopwatch()
    watch(stopwatch)
    stop = until_signalled()
    lines = await Lines.open()
    async with Gateway.start(load_config(Path("gateway.toml"))) as gateway:
        suit_interpreter()
        lines.say({"gateway": f"127.0.0.1:{gateway.port}"})
        answers = asyncio.create_task(_answer(lines, stopwatch))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({answers, stopped}, return_when=asyncio.FIRST_COMPLETED)


async def _answer(lines: Lines, stopwatch: Stopwatch) -> None:
    while await lines.hear() is not None:
        lines.say({"parts": stopwatch.take()})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
