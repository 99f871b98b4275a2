"""Whether something grows: a straight line through what was measured, and how sure that line is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

SURE: Final = 1.96
"""Standard errors on both sides that hold 19 lines of 20, for some dozens of samples or more."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth per unit of time, and half the width of its 95 % interval.

    Neighbouring samples of a program are alike, which makes the interval wider than the formula for independent ones says:
    it is widened by their correlation.
    """

    slope: float
    margin: float

    def verdict(self, bound: float) -> str:
        """What it comes to for whoever minds no growth below `bound`, above 0, per unit of time.

        flat: the whole interval lies within the bound, which a program that grows by less passes too. grows, shrinks: the whole
        interval lies on one side of nothing, and reaches beyond the bound. unsure: neither; longer, or quieter, would tell.
        """
        least, most = self.slope - self.margin, self.slope + self.margin
        if -bound <= least and most <= bound:
            return "flat"
        return "grows" if least > 0 else "shrinks" if most < 0 else "unsure"


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """The least-squares line through at least three samples at different times."""
    middle, level = fmean(times), fmean(values)
    square = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (value - level) for at, value in zip(times, values, strict=True)) / square
    rests = [value - level - slope * (at - middle) for at, value in zip(times, values, strict=True)]
    variance = sum(rest**2 for rest in rests) / (len(rests) - 2)
    return Trend(slope, SURE * math.sqrt(variance * _inflation(rests) / square))


def _inflation(rests: Sequence[float]) -> float:
    """By how much correlated samples are fewer than they seem: (1 + r) / (1 - r), r that of neighbours, never below 1."""
    power = sum(rest**2 for rest in rests)
    if not power:
        return 1.0
    alike = sum(one * other for one, other in itertools.pairwise(rests)) / power
    alike = min(max(alike, 0.0), 0.99)
    return (1 + alike) / (1 - alike)
