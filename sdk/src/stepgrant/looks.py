"""When to look whether a task belongs on another stream: before what its stream came with has ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from stepgrant.clock import Clock, Timer

SOONEST_LOOK: Final = timedelta(seconds=1)
"""Least time between two looks at whether there is a newer identity; whoever brings one says so besides."""


class Looks:
    """Calls `look` each time when half of what the identity has left is over, and once when half of the user's token is."""

    def __init__(self, clock: Clock, look: Callable[[], None]) -> None:
        self._clock = clock
        self._look = look
        self._timers: dict[str, Timer] = {}
        self.subject_due = False
        """True when half of the user's token is over: it is time for the next one, while this one still holds."""

    def begin(self, not_after: datetime, subject_ends: datetime | None) -> None:
        """At an identity that lasts until `not_after`, and a user's token that another one can follow."""
        self.end()
        self.subject_due = False
        self._later(not_after)
        if subject_ends is not None:
            self._timers["subject"] = self._half_over(subject_ends, self._subject_half_over)

    def end(self) -> None:
        """Nothing is looked at any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _later(self, not_after: datetime) -> None:
        def again() -> None:
            """Not every source says so by itself when there is a newer identity."""
            self._look()
            self._later(not_after)

        if not_after > self._clock.now():
            self._timers["identity"] = self._half_over(not_after, again)

    def _half_over(self, end: datetime, callback: Callable[[], None]) -> Timer:
        left = max((end - self._clock.now()) / 2, SOONEST_LOOK)
        return self._clock.call_at(self._clock.monotonic() + left, callback)

    def _subject_half_over(self) -> None:
        self.subject_due = True
        self._look()
