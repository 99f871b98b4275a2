"""Two contestants in turns: what is typical of each, its ratio turn by turn, and how far the turns lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Duel:
    """Seconds that each of two contestants took, one list a turn. Neighbouring turns share whatever else the machine does.

    `of` is what is compared of one turn, by default the median.
    """

    ours: list[list[float]] = field(default_factory=list)
    theirs: list[list[float]] = field(default_factory=list)
    of: Callable[[Sequence[float]], float] = statistics.median

    @property
    def ratio(self) -> float:
        """The median, over the turns, of ours over theirs: one bad turn is not the figure, nor is one good one."""
        return statistics.median(self.ratios)

    @property
    def ratios(self) -> list[float]:
        """One for each turn."""
        return [self.of(mine) / self.of(other) for mine, other in zip(self.ours, self.theirs, strict=True)]

    def summary(self) -> dict[str, Any]:
        """What `--json` prints of it: times in microseconds."""
        return {
            "ratio": round(self.ratio, 3),
            "ratio_quartiles": [round(value, 3) for value in quartiles(self.ratios)],
            "turns": len(self.ours),
            "ours_us": spread(_all(self.ours)),
            "theirs_us": spread(_all(self.theirs)),
        }


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third; a single value is both."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """How times lie, in microseconds."""
    every = sorted(value * 1e6 for value in seconds)
    low, high = quartiles(every)
    return {
        "p50": round(statistics.median(every)),
        "quartiles": [round(low), round(high)],
        "p99": round(percentile(every, 0.99)),
        "max": round(every[-1]),
        "samples": len(every),
    }


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return percentile(values, 0.99)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    every = sorted(values)
    return every[min(len(every) - 1, int(len(every) * share))]


def _all(turns: Sequence[Sequence[float]]) -> list[float]:
    return [seconds for turn in turns for seconds in turn]


@dataclass(slots=True)
class Findings:
    """What one part of a run has found, each by a name of its own."""

    duels: dict[str, Duel] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    """Of something else than medians of turns."""
    spans: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of what has no opponent."""
    counts: dict[str, float] = field(default_factory=dict)
    """Everything else; the unit is in the name."""

    def add(self, other: Findings) -> None:
        """These as well."""
        self.duels |= other.duels
        self.ratios |= other.ratios
        self.spans |= other.spans
        self.counts |= other.counts

    def document(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        ratios = {name: duel.ratio for name, duel in self.duels.items()} | self.ratios
        return {
            "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
            "measured": {name: duel.summary() for name, duel in self.duels.items()},
            "spans_us": {name: spread(times) for name, times in self.spans.items()},
            "counts": {name: round(value, 3) for name, value in self.counts.items()},
        }
