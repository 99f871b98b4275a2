"""What keeps a running gateway's keys and feed good: the next key in time, and new ones when the clock was set back."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.lifecycle import Tasks
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ports import Clock, Journal
from stepgrant_gateway.tokens.keys import SigningKeys

CLOCK_SET_BACK: Final = "clock_set_back"
"""The code that tasks and subscriptions end with then."""

_log = logging.getLogger(__name__)


class Upkeep:
    """`look` each second, before the heartbeat."""

    def __init__(self, *, clock: Clock, tasks: Tasks, feed: Feed, keys: SigningKeys, journal: Journal) -> None:
        self._clock = clock
        self._tasks = tasks
        self._feed = feed
        self._keys = keys
        self._journal = journal

    def look(self) -> None:
        """Begins anew if the clock was set back; makes the next key if it is due."""
        by = self._feed.wall.set_back()
        if by:
            self._begin_anew(by)
        if self._clock.now() >= self._keys.due():
            self.rotate()

    def rotate(self) -> None:
        """The next signing key: announced on the feed, then active, then on record."""
        key = self._keys.rotate(self._feed.publish)
        data = {"kid": key.kid, "jwk": key.jwk_json, "not_after_ms": int(key.not_after.timestamp() * 1000)}
        self._journal.record_end(Event(EventType.KEY_ACTIVATED, self._clock.now(), data))

    def _begin_anew(self, by: timedelta) -> None:
        """What bears times of before must not come alive a second time (ADR 17): no key of before counts any more."""
        _log.critical(
            "The wall clock was set back by %s: every task ends, keys and feed begin anew.",
            by,
            extra={"event": "clock_set_back"},
        )
        self._tasks.end_all(CLOCK_SET_BACK, "the gateway's clock was set back; open the task anew.")
        self._keys.forget()
        self._feed.begin_anew()
        self._feed.wall.settle()
        data = {"by_ms": by // timedelta(milliseconds=1)}
        self._journal.record_end(Event(EventType.CLOCK_SET_BACK, self._clock.now(), data))
