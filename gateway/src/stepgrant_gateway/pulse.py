"""What a running gateway does each second: says that it lives, and replaces its signing key when that is due."""

from __future__ import annotations

import logging
from collections.abc import Callable

from stepgrant.errors import StepgrantError
from stepgrant.grant import HEARTBEAT
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.core.ports import Clock, Timer

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
            except (StepgrantError, GatewayError):
                _log.exception("What the gateway does each second failed, and is tried again in a second.")
