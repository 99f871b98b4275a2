"""Books of budgets: what has been spent, exact, by key and within a window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Entry:
    """What one step adds to one budget."""

    at: datetime
    step: tuple[str, str]
    amount: Decimal


@dataclass(slots=True)
class Book:
    """The entries of one budget under one key, oldest first, and their exact sum."""

    window: timedelta | None
    entries: deque[Entry] = field(default_factory=deque)
    total: Decimal = Decimal(0)

    def spent(self, now: datetime, without: tuple[str, str]) -> Decimal:
        """The sum of the entries inside the window, but for those of the step `without`."""
        if self.window is not None:
            while self.entries and self.entries[0].at <= now - self.window:
                self.total -= self.entries.popleft().amount
        return self.total - sum((entry.amount for entry in self.entries if entry.step == without), Decimal(0))

    def reserve(self, entry: Entry) -> None:
        """Counts the entry from now on."""
        self.entries.append(entry)
        self.total += entry.amount

    def give_back(self, step: tuple[str, str]) -> None:
        """Forgets what the step had reserved: its grant was never delivered."""
        kept = deque(entry for entry in self.entries if entry.step != step)
        self.total -= sum((entry.amount for entry in self.entries if entry.step == step), Decimal(0))
        self.entries = kept
