"""A clock that stands still until the test moves it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class ManualTimer:
    """A call that the test lets happen by advancing the clock."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """`Clock` of the gateway's ports, moved by `advance`."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic = timedelta(0)
        self._timers: list[tuple[timedelta, int, ManualTimer]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> timedelta:
        return self._monotonic

    def call_at(self, when: timedelta, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def advance(self, span: timedelta) -> None:
        """Both clocks go on by `span`; timers that fall due run in order, at their own time."""
        end = self._monotonic + span
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._now += max(when - self._monotonic, timedelta(0))
            self._monotonic = max(when, self._monotonic)
            if timer.callback is not None:
                timer.callback()
        self._now += end - self._monotonic
        self._monotonic = end

    def set_wall(self, now: datetime) -> None:
        """The wall clock is set, as by an operator or NTP; monotonic time is not touched."""
        self._now = now
