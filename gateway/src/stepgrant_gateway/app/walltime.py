"""Whether the wall clock was set back: what was stamped before that must not be believed afterwards (ADR 17)."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from stepgrant.grant import FEED_AGE_ALLOWED
from stepgrant_gateway.core.ports import Clock

SET_BACK: Final = max(FEED_AGE_ALLOWED.values())
"""From this on a wall clock was set back, and not disciplined: verifiers end their trust by the same measure."""
DRIFT: Final = 0.001
"""By how much of the time the clocks may part without that: twice what a wall clock is slewed by (adjtime: 500 ppm)."""


class WallTime:
    """Holds the wall clock against the monotonic one. A clock that jumps ahead is followed: then grants die early."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = clock.monotonic()
        self._furthest = clock.now() - self._seen

    def set_back(self) -> timedelta:
        """By how much it was set back since the last `settle`; zero for what verifiers put up with."""
        monotonic = self._clock.monotonic()
        offset = self._clock.now() - monotonic
        self._furthest = max(self._furthest - (monotonic - self._seen) * DRIFT, offset)
        self._seen = monotonic
        by = self._furthest - offset
        return by if by > SET_BACK else timedelta(0)

    def settle(self) -> None:
        """From now on the clock counts as right."""
        self._seen = self._clock.monotonic()
        self._furthest = self._clock.now() - self._seen
