"""Health that tells the truth: what keeps the gateway from its work, looked at each second, and said when it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from stepgrant_gateway.core.ports import Clock

Check = Callable[[], str | None]
"""Why the gateway cannot do its work, or None."""

STARTING: Final = "starting"
DRAINING: Final = "draining"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Condition:
    """How the gateway is at one moment of the monotonic clock. Without `troubles` it is ready."""

    at: timedelta
    troubles: Mapping[str, str]


class Health:
    """Asks the checks when it is told to look. Begins as `starting`, ends as `draining`.

    `changed` hears of a condition whose troubles are others than before. Each change of a check is one line of the log:
    event `NAME_failing` when it begins, `NAME_recovered` when it is over.
    """

    def __init__(
        self, clock: Clock, checks: Mapping[str, Check], changed: Callable[[Condition], None] = lambda _: None
    ) -> None:
        self._clock = clock
        self._checks = checks
        self._changed = changed
        self._draining = False
        self._latest = Condition(clock.monotonic(), {STARTING: "the gateway has not served yet"})

    @property
    def latest(self) -> Condition:
        """The condition at the last look; from any thread."""
        return self._latest

    @property
    def checks(self) -> frozenset[str]:
        """Names of all checks."""
        return frozenset((*self._checks, STARTING, DRAINING))

    def look(self) -> None:
        """Asks every check now."""
        troubles = {name: why for name, check in self._checks.items() if (why := _asked(check)) is not None}
        if self._draining:
            troubles[DRAINING] = "the gateway stops"
        before, self._latest = self._latest, Condition(self._clock.monotonic(), troubles)
        if before.troubles.keys() != troubles.keys():
            self._log(before.troubles, troubles)
            self._changed(self._latest)

    def drain(self) -> None:
        """From now on the gateway is not ready, for good."""
        self._draining = True
        self.look()

    def _log(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        if DRAINING in now.keys() - before.keys():
            _log.warning("Draining: the gateway stops.", extra={"event": "draining"})
        for name in sorted(now.keys() - before.keys() - {DRAINING}):
            _log.error("Not ready, %s: %s", name, now[name], extra={"event": f"{name}_failing"})
        for name in sorted(before.keys() - now.keys() - {STARTING}):
            _log.warning("Over, %s: %s", name, before[name], extra={"event": f"{name}_recovered"})


def _asked(check: Check) -> str | None:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - of whatever kind
        # What cannot be looked at cannot be called good, and the other checks must be looked at all the same.
        _log.exception("A check of health failed.")
        return f"cannot be looked at: {type(error).__name__}"
