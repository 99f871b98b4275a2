"""The real clock and the real random source."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class SystemClock:
    """`core.ports.Clock` of the running event loop."""

    def now(self) -> datetime:
        """Wall-clock time, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> timedelta:
        """Time of the loop's own clock, so that timers and deadlines agree."""
        return timedelta(seconds=time.monotonic())

    def call_at(self, when: timedelta, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls `callback` once when `monotonic()` has reached `when`; needs a running loop."""
        loop = asyncio.get_running_loop()
        return loop.call_later(max((when - self.monotonic()).total_seconds(), 0.0), callback)


def system_entropy(count: int, /) -> bytes:
    """`count` random bytes of the operating system."""
    return os.urandom(count)
