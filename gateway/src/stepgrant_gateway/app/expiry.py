"""Deadlines: any number of them, one timer on an injected clock."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from stepgrant_gateway.core.ports import Clock, Timer

logger = logging.getLogger(__name__)


@dataclass(order=True, slots=True)
class Deadline:
    """One thing that is due. `cancel` lets it not happen."""

    when: timedelta
    order: int
    callback: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Let it not happen; harmless when it has."""
        self.callback = None


class Deadlines:
    """Runs what is due, in order of its time. Deadlines run on the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[Deadline] = []
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._armed: timedelta | None = None

    def at(self, wall: datetime, callback: Callable[[], None]) -> Deadline:
        """Calls `callback` when the time from now to `wall` has passed, however the wall clock is set meanwhile."""
        deadline = Deadline(
            self._clock.monotonic() + max(wall - self._clock.now(), timedelta(0)), next(self._order), callback
        )
        heapq.heappush(self._heap, deadline)
        self._arm()
        return deadline

    def _arm(self) -> None:
        while self._heap and self._heap[0].callback is None:
            heapq.heappop(self._heap)
        first = self._heap[0].when if self._heap else None
        if first == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if first is None else self._clock.call_at(first, self._run)
        self._armed = first

    def _run(self) -> None:
        self._armed = self._timer = None
        now = self._clock.monotonic()
        while self._heap and self._heap[0].when <= now:
            callback = heapq.heappop(self._heap).callback
            if callback is not None:
                try:
                    callback()
                except Exception:
                    logger.exception("what was due failed; the other deadlines go on")
        self._arm()
