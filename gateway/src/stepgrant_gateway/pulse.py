"""What a running gateway does each second."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from stepgrant.grant import HEARTBEAT
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.observations import UNOBSERVED, Count
from stepgrant_gateway.core.ports import Clock, Journal, Observer, Timer

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
                _log.exception(
                    "What the gateway does each second failed, and is tried again in a second.",
                    extra={"event": "beat_failed"},
                )


class DeniedCallers:
    """Records who was turned away, at most MAX_DENIED_RECORDED a second."""

    def __init__(self, journal: Journal, clock: Clock, observer: Observer = UNOBSERVED) -> None:
        self._journal = journal
        self._observer = observer
        self._clock = clock
        self._left = MAX_DENIED_RECORDED

    def record(self, method: str, reason: str) -> None:
        """One caller was turned away."""
        self._observer.count(Count.CALLER_DENIED)
        if self._left:
            self._left -= 1
            _log.warning("Turned a caller of %s away: %s", method, reason, extra={"event": "caller_denied"})
            self._journal.record(
                Event(EventType.IDENTITY_DENIED, self._clock.now(), {"method": method, "reason": reason[:1024]})
            )

    def refill(self) -> None:
        """A second has gone by."""
        self._left = MAX_DENIED_RECORDED
