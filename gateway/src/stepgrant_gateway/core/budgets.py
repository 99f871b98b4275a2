"""Books of budgets: what has been spent, exact, by key and within a window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

StepKey = tuple[str, str]
"""(task id, step id)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one step adds to one budget."""

    at: datetime
    step: StepKey
    amount: Decimal


@dataclass(slots=True)
class Book:
    """One budget under one key: its exact sum, and what is needed to take a part of it back.

    With a window, entries are kept until they leave it; without one, only the sum is.
    """

    window: timedelta | None
    total: Decimal = Decimal(0)
    _entries: deque[Entry] = field(default_factory=deque)
    _live: dict[StepKey, Decimal] = field(default_factory=dict)

    def spent(self, now: datetime, without: StepKey) -> Decimal:
        """The sum inside the window, but for what the live step `without` has reserved itself."""
        self._prune(now)
        return self.total - self._live.get(without, Decimal(0))

    def reserve(self, entry: Entry) -> None:
        """Counts the entry from now on; until `settle` it can be given back."""
        self.total += entry.amount
        self._live[entry.step] = self._live.get(entry.step, Decimal(0)) + entry.amount
        if self.window is not None:
            self._entries.append(entry)

    def give_back(self, entry: Entry) -> None:
        """Forgets what was reserved, also of a step that has ended meanwhile: its grant was never delivered."""
        self._live.pop(entry.step, None)
        if self.window is None:
            self.total -= entry.amount
        elif entry in self._entries:
            self._entries.remove(entry)
            self.total -= entry.amount

    def settle(self, step: StepKey) -> None:
        """The step has ended: what it reserved stays spent."""
        self._live.pop(step, None)

    def is_empty(self, now: datetime) -> bool:
        """True if a new book would say the same."""
        self._prune(now)
        return not self._live and not self._entries and (self.window is not None or self.total == 0)

    def _prune(self, now: datetime) -> None:
        if self.window is None:
            return
        while self._entries and self._entries[0].at <= now - self.window:
            entry = self._entries.popleft()
            self.total -= entry.amount
            if entry.step in self._live:
                self._live[entry.step] -= entry.amount
