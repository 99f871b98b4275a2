"""How often everything is done: in a run that counts, and in one that only looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IN_FLIGHT: Final = 16


@dataclass(frozen=True, slots=True)
class Effort:
    """Turns of duels and what each contestant does in one (`crowded`: each of `IN_FLIGHT` workers), and samples of the rest.

    A task has at most 10,000 steps, so turns * crowded * IN_FLIGHT must stay below.
    """

    turns: int
    steps: int
    crowded: int
    decisions: int
    ends: int
    """Ends by report, by lock and by reload."""
    hard_ends: int
    """Ends by SIGKILL."""
    idle_streams: int
    fair_turns: int
    fair_seconds: float
    """Of one turn, of each contestant."""
    policies: tuple[int, ...]


FULL: Final = Effort(
    turns=40,
    steps=50,
    crowded=12,
    decisions=200,
    ends=300,
    hard_ends=50,
    idle_streams=10_000,
    fair_turns=10,
    fair_seconds=6.0,
    policies=(10, 1_000, 10_000, 100_000),
)
QUICK: Final = Effort(
    turns=10,
    steps=20,
    crowded=4,
    decisions=60,
    ends=40,
    hard_ends=5,
    idle_streams=500,
    fair_turns=2,
    fair_seconds=3.0,
    policies=(10, 1_000),
)
