"""What a running gateway does each second, and what it does now and then when a second has gone by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

from stepgrant.grant import HEARTBEAT
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ports import Clock, InputStore, Journal, Timer

MAX_DENIED_RECORDED: Final = 16
"""Callers turned away that are recorded in one second: a flood of strangers must not become a flood of the ledger."""

_log = logging.getLogger(__name__)


class Pulse:
    """Calls each of `beats` every HEARTBEAT. One that fails is logged and called again: it must not stop the others."""

    def __init__(self, clock: Clock, *beats: Callable[[], None]) -> None:
        self._clock = clock
        self._beats = beats
        self._timer: Timer | None = None

    def start(self) -> None:
        """Beats for the first time one HEARTBEAT from now."""
        self._timer = self._clock.call_at(self._clock.monotonic() + HEARTBEAT, self._beat)

    def stop(self) -> None:
        """Beats no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self.start()
        for beat in self._beats:
            try:
                beat()
            except Exception:  # noqa: BLE001 - one that fails must not stop the others
                _log.exception("What the gateway does each second failed, and is tried again in a second.")


class DeniedCallers:
    """Records who was turned away, at most MAX_DENIED_RECORDED a second."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._left = MAX_DENIED_RECORDED

    def record(self, method: str, reason: str) -> None:
        """One caller was turned away."""
        if self._left:
            self._left -= 1
            self._journal.record(
                Event(EventType.IDENTITY_DENIED, self._clock.now(), {"method": method, "reason": reason[:1024]})
            )

    def refill(self) -> None:
        """A second has gone by."""
        self._left = MAX_DENIED_RECORDED


class Retention:
    """Destroys the data keys of days that are past their time, once a day, beside the loop: the disk may be slow."""

    def __init__(self, store: InputStore, keep: timedelta, clock: Clock) -> None:
        self._store = store
        self._keep = keep
        self._clock = clock
        self._done: date | None = None
        self._work: asyncio.Future[int] | None = None

    def beat(self) -> None:
        """Does the work of the day if it has not been done."""
        today = self._clock.now().date()
        if self._done != today and (self._work is None or self._work.done()):
            self._done = today
            work = asyncio.get_running_loop().run_in_executor(None, self._store.expire, today - self._keep)
            work.add_done_callback(self._look)
            self._work = work

    def _look(self, work: asyncio.Future[int]) -> None:
        if not work.cancelled() and work.exception() is not None:
            self._done = None
            _log.error("Inputs past their time could not be destroyed; trying again.", exc_info=work.exception())
