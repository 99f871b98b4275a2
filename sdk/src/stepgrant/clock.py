"""Time as the client needs it: a port, and the one that runs on an asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Timer(Protocol):
    """A call that is going to happen."""

    def cancel(self) -> None:
        """Let it not happen; harmless when it has."""


class Clock(Protocol):
    """Time and a timer. `now` is aware UTC; of `monotonic` only differences mean something."""

    def now(self) -> datetime:
        """Wall-clock time, aware UTC."""

    def monotonic(self) -> timedelta:
        """Time that never goes back."""

    def call_at(self, when: timedelta, callback: Callable[[], None]) -> Timer:
        """Calls `callback` once when `monotonic()` has reached `when`."""


class LoopClock:
    """The clock of the running asyncio loop; to be used from that loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        """Wall-clock time, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> timedelta:
        """The loop's own time."""
        return timedelta(seconds=self._loop.time())

    def call_at(self, when: timedelta, callback: Callable[[], None]) -> Timer:
        """Calls `callback` on the loop."""
        return self._loop.call_at(when.total_seconds(), callback)
