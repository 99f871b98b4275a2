"""Whether the wall clock was set back: what was stamped before that must not be believed afterwards (ADR 17)."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from stepgrant.grant import FEED_AGE_ALLOWED
from stepgrant_gateway.core.ports import Clock

SET_BACK: Final = max(FEED_AGE_ALLOWED.values())
"""From this on a wall clock was set back, and not disciplined: verifiers end their trust by the same measure."""


class WallTime:
    """Holds the wall clock against the monotonic one. A clock that jumps ahead is followed: then grants die early."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._furthest = clock.now() - clock.monotonic()

    def set_back(self) -> timedelta:
        """By how much it was set back since the last `settle`; zero for what verifiers put up with."""
        offset = self._clock.now() - self._clock.monotonic()
        self._furthest = max(self._furthest, offset)
        by = self._furthest - offset
        return by if by > SET_BACK else timedelta(0)

    def settle(self) -> None:
        """From now on the clock counts as right."""
        self._furthest = self._clock.now() - self._clock.monotonic()
