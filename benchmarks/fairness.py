"""Ten agents with fifty steps each, with and without an eleventh that floods: what it costs them, and whether all is there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from children import Child
from effort import Effort
from figures import Duel, Findings, p99
from rig import SUPPORT, Rig, running

from stepgrant_gateway.app.auditing import read_all, verify_ledger
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

AGENTS: Final = tuple(f"{SUPPORT}/{number}" for number in range(10))
FLOODER: Final = f"{SUPPORT}/flood"
PROCESSES: Final = 2
"""That the ten agents live in."""
LIMITS: Final = "declares_per_second = 30"
"""Half as much again as each of the ten needs, and far below what the eleventh asks."""
_HERE: Final = Path(__file__).parent


class UnfairError(AssertionError):
    """A step was lost, granted twice, or granted without a record."""


@dataclass(slots=True)
class Book:
    """What clients were told: grants with their steps, steps that were settled, and what was denied, by its code."""

    granted: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)
    denied: Counter[str] = field(default_factory=Counter)

    def add(self, told: Mapping[str, Any]) -> None:
        """What another process was told."""
        self.granted |= told["granted"]
        self.settled += told["settled"]
        self.denied.update(told["denied"])


async def measure(directory: Path, effort: Effort) -> Findings:
    """Turns with the flood and turns without it; then every book is held against the ledger."""
    found, floods = Findings(), list[float]()
    flooded, calm = list[list[float]](), list[list[float]]()
    async with running(directory, limits=LIMITS, agents=(*AGENTS, FLOODER)) as rig:
        sockets = rig.trust.said["sockets"]
        share = len(AGENTS) // PROCESSES
        async with (
            rig.child("crew0", _HERE / "crew.py", *(sockets[name] for name in AGENTS[:share])) as first,
            rig.child("crew1", _HERE / "crew.py", *(sockets[name] for name in AGENTS[share:])) as second,
            rig.child("flooder", _HERE / "flooder.py", sockets[FLOODER]) as flooder,
        ):
            crews = (first, second)
            await _turn(crews, effort.fair_seconds)  # Warm.
            for turn in range(effort.fair_turns):
                for flooding in (True, False) if turn % 2 else (False, True):
                    if flooding:
                        flooder.tell({"flood": True})
                        flooded.append(await _turn(crews, effort.fair_seconds))
                        said = await flooder.ask({"flood": False})
                        floods.append(said["answered"] / said["seconds"])
                    else:
                        calm.append(await _turn(crews, effort.fair_seconds))
            ten, eleventh = Book(), Book()
            for crew in crews:
                ten.add(await crew.ask({"book": True}))
            eleventh.add(await flooder.ask({"book": True}))
        await rig.server.stop()
        check(ledger_events(rig), (ten, eleventh))
    if ten.denied:
        raise UnfairError(f"the ten were denied: {dict(ten.denied)}")
    found.duels["fairness_p50"] = Duel(flooded, calm)
    found.duels["fairness_p99"] = Duel(flooded, calm, of=p99)
    found.counts["flood_declares_per_s"] = median(floods)
    found.counts["flood_denied"] = eleventh.denied.total()
    found.counts["fair_steps"] = len(ten.granted)
    return found


async def _turn(crews: Sequence[Child], seconds: float) -> list[float]:
    """The seconds that each declaration of the ten took."""
    said = await asyncio.gather(*(crew.ask({"seconds": seconds}, within=10 * seconds + 60) for crew in crews))
    return [us / 1e6 for one in said for us in one["us"]]


def ledger_events(rig: Rig) -> list[Event]:
    """All of them, once every chain has verified."""
    with closing(SqliteLedgerReader(rig.directory / "ledger.db")) as reader:
        verify_ledger(reader)
        return [stored.event for stored in read_all(reader)]


def check(events: Iterable[Event], books: Iterable[Book]) -> None:
    """Nothing lost and nothing granted twice: what clients were told and what is on record are the same.

    Raises:
        UnfairError: with the first that is not.
    """
    granted: dict[str, str] = {}
    of_step: Counter[tuple[str, str]] = Counter()
    ended: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.type is EventType.STEP_GRANTED:
            granted[event.data["grant"]] = event.data["step"]
            of_step[event.data["task"], event.data["step"]] += 1
        elif event.type is EventType.STEP_ENDED:
            ended[event.data["task"], event.data["step"]] += 1
    told: dict[str, str] = {}
    for book in books:
        told |= book.granted
        open_still = set(book.granted.values()) - set(book.settled)
        if open_still:
            raise UnfairError(f"{len(open_still)} steps were granted, and their report had no answer")
    twice = [key for key, times in (of_step | ended).items() if times != 1]
    if twice:
        raise UnfairError(f"step {twice[0]} was granted or ended {of_step[twice[0]]} and {ended[twice[0]]} times")
    if of_step.keys() != ended.keys():
        raise UnfairError(f"{len(of_step.keys() ^ ended.keys())} steps have a grant or an end on record, and not both")
    if granted != told:
        missing, unheard = told.keys() - granted.keys(), granted.keys() - told.keys()
        raise UnfairError(f"{len(missing)} grants are not on record, {len(unheard)} were never heard of")
