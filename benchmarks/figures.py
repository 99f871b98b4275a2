"""Two contestants in turns: medians, their ratio turn by turn, and how far the turns lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Duel:
    """Seconds that each of two contestants took, one list a turn. Neighbouring turns share whatever else the machine does."""

    ours: list[list[float]] = field(default_factory=list)
    theirs: list[list[float]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median, over the turns, of our median over theirs."""
        return statistics.median(self.ratios)

    @property
    def ratios(self) -> list[float]:
        """One ratio of medians for each turn."""
        return [
            statistics.median(mine) / statistics.median(other)
            for mine, other in zip(self.ours, self.theirs, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """What `--json` prints of it: times in microseconds."""
        return {
            "ratio": round(self.ratio, 3),
            "ratio_quartiles": [round(value, 3) for value in quartiles(self.ratios)],
            "turns": len(self.ours),
            "ours_us": _times(self.ours),
            "theirs_us": _times(self.theirs),
        }


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third; a single value is both."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def _times(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    every = sorted(seconds * 1e6 for turn in turns for seconds in turn)
    low, high = quartiles(every)
    return {
        "p50": round(statistics.median(every)),
        "quartiles": [round(low), round(high)],
        "p99": round(every[min(len(every) - 1, len(every) * 99 // 100)]),
        "samples": len(every),
    }
