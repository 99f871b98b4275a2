"""Deadlines: any number of them, one timer on an injected clock. Many at once take turns with everything else."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from stepgrant_gateway.core.ports import Clock, Timer

AT_ONCE: Final = 256
"""Deadlines that run in one turn of the loop, about 20 ms of it: what is due at the same instant must not stop the gateway."""
TRIES: Final = 3
"""Times that what is due is tried in all, if it fails. Then it is let be, and the log has said so each time."""
TRY_AGAIN: Final = timedelta(seconds=1)

TIDY_AT: Final = 1024
"""Deadlines from which on cancelled ones are looked for."""

_NONE: Final = timedelta(0)

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Deadline:
    """One thing that is due. `cancel` lets it not happen."""

    when: timedelta
    callback: Callable[[], None] | None
    failed: int = 0

    def cancel(self) -> None:
        """Let it not happen; harmless when it has."""
        self.callback = None


class Deadlines:
    """Runs what is due, in order of its time. Deadlines run on the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Tuples, which the heap compares without calling Python; no two are alike in time and order.
        self._heap: list[tuple[timedelta, int, Deadline]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._armed: timedelta | None = None
        self._tidy_at = TIDY_AT

    def __len__(self) -> int:
        """Deadlines that are kept: those to come, and hardly more cancelled ones than that."""
        return len(self._heap)

    def at(self, wall: datetime, callback: Callable[[], None]) -> Deadline:
        """Calls `callback` when the time from now to `wall` has passed, however the wall clock is set meanwhile."""
        deadline = Deadline(self._clock.monotonic() + max(wall - self._clock.now(), _NONE), callback)
        self._push(deadline)
        if len(self._heap) >= self._tidy_at:
            self._tidy()
        self._arm()
        return deadline

    def _push(self, deadline: Deadline) -> None:
        heapq.heappush(self._heap, (deadline.when, next(self._order), deadline))

    def _tidy(self) -> None:
        """A task that lasts a second leaves no deadline behind for its whole max_age. Each is looked at twice or so in all."""
        self._heap = [entry for entry in self._heap if entry[2].callback is not None]
        heapq.heapify(self._heap)
        self._tidy_at = max(2 * len(self._heap), TIDY_AT)

    def _arm(self) -> None:
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        first = self._heap[0][0] if self._heap else None
        if first == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if first is None else self._clock.call_at(first, self._run)
        self._armed = first

    def _run(self) -> None:
        self._armed = self._timer = None
        now = self._clock.monotonic()
        ran = 0
        while self._heap and self._heap[0][0] <= now and ran < AT_ONCE:
            deadline = heapq.heappop(self._heap)[2]
            if deadline.callback is not None:
                ran += 1
                try:
                    deadline.callback()
                except Exception:
                    logger.exception("what was due failed; the other deadlines go on")
                    self._again(deadline, now)
        self._arm()

    def _again(self, deadline: Deadline, now: timedelta) -> None:
        """A bug must not stop the others, nor be tried for ever."""
        deadline.failed += 1
        if deadline.failed < TRIES:
            deadline.when = now + TRY_AGAIN
            self._push(deadline)
        else:
            logger.error("what was due has failed %d times and is let be", TRIES)
