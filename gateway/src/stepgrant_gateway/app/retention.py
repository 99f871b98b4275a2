"""Retention: the data keys of days past are destroyed, and their inputs with them; the chain stays whole (design 7)."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from stepgrant_gateway.core.ports import Clock, InputStore, Timer

logger = logging.getLogger(__name__)

CHECK: Final = timedelta(hours=1)
"""How often the calendar is looked at: a key is destroyed at most this much later than its day is due."""


class Retention:
    """Destroys the data keys of days that are more than `keep` ago; the key of the day itself is never due."""

    def __init__(self, store: InputStore, clock: Clock, keep: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._keep = max(keep, timedelta(0))
        self._timer: Timer | None = None
        self._running: asyncio.Task[None] | None = None
        self._done_at = clock.monotonic()

    async def start(self) -> None:
        """Destroys what is due, and goes on doing so until `stop`. A store that fails is asked again at the next check."""
        await self._expire()

    def stop(self) -> None:
        """Nothing is destroyed any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            self._running.cancel()

    @property
    def age(self) -> timedelta:
        """Time since what was due was last destroyed, or since this began: more than CHECK and it is overdue."""
        return self._clock.monotonic() - self._done_at

    def _due(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._expire())

    async def _expire(self) -> None:
        self._timer = self._clock.call_at(self._clock.monotonic() + CHECK, self._due)
        before = (self._clock.now() - self._keep).date()
        try:
            destroyed = await asyncio.to_thread(self._store.expire, before)
        except Exception:
            logger.exception(
                "inputs of before %s could not be destroyed; the next check tries again", before,
                extra={"event": "retention_failed"},
            )  # fmt: skip
            return
        self._done_at = self._clock.monotonic()
        if destroyed:
            logger.info("destroyed %d data keys of before %s, and the inputs under them", destroyed, before)
