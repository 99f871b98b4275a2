"""Has on record which keys are trusted: since when, and until when. A change is recorded at once, many changes once a minute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ports import Clock, Journal, Receipt, Timer

EVERY: Final = timedelta(minutes=1)
"""The least time between two events about the same keys: a partner that changes its bundle all the time must not fill the ledger."""
MAX_BETWEEN: Final = 64
"""Keys of one event that came and went, or went and came, since the event before: more are only counted."""
_MAX_TOUCHED: Final = 1024

Owner = tuple[EventType, tuple[tuple[str, str], ...]]
"""Whose keys they are: the type of their events, and the names and values that tell one owner from another there."""


@dataclass(slots=True)
class _Keys:
    """The keys of one owner: those that the last event knows, those of now, and all that changed in between."""

    recorded: frozenset[str] = frozenset()
    now: frozenset[str] = frozenset()
    touched: set[str] = field(default_factory=set)
    changes: int = 0
    said: Mapping[str, int | None] = field(default_factory=dict)
    since: timedelta | None = None
    receipt: Receipt | None = None
    timer: Timer | None = None


class TrustedKeys:
    """Records changes of the keys that vouch for others. What it records has taken effect already. For one event loop."""

    def __init__(self, *, clock: Clock, journal: Journal) -> None:
        self._clock = clock
        self._journal = journal
        self._owners: dict[Owner, _Keys] = {}
        self._closed = False

    def note(self, owner: Owner, keys: frozenset[str], said: Mapping[str, int | None] | None = None) -> None:
        """These are the owner's keys now, by a digest each; `said`: what else its events say as of now.

        The first event of an owner has all of them as `added`. Where nothing was trusted, and nothing is, there is none.
        """
        if self._closed:
            return
        book = self._owners.setdefault(owner, _Keys())
        book.said = said or {}
        if keys == book.now:
            return
        if len(book.touched) < _MAX_TOUCHED:
            book.touched |= keys ^ book.now
        book.now = keys
        book.changes += 1
        if book.timer is None:
            self._record_when_due(owner, book)

    def close(self) -> None:
        """Records what waits, and nothing that comes later."""
        self._closed = True
        for owner, book in self._owners.items():
            if book.timer is not None:
                book.timer.cancel()
                book.timer = None
            if book.changes:
                self._record(owner, book)
        self._owners.clear()

    def _record_when_due(self, owner: Owner, book: _Keys) -> None:
        now = self._clock.monotonic()
        due = now if book.since is None else book.since + EVERY
        if book.receipt is not None and not book.receipt.done():
            # The ledger is away: changes gather in one event, not events in memory.
            due = max(due, now + EVERY)
        if due <= now:
            self._record(owner, book)
        else:
            book.timer = self._clock.call_at(due, partial(self._look, owner, book))

    def _look(self, owner: Owner, book: _Keys) -> None:
        book.timer = None
        self._record_when_due(owner, book)

    def _record(self, owner: Owner, book: _Keys) -> None:
        kind, names = owner
        added, removed = book.now - book.recorded, book.recorded - book.now
        between = book.touched - added - removed
        data = {
            **dict(names),
            **book.said,
            "keys": len(book.now),
            "added": sorted(added),
            "removed": sorted(removed),
            "between": sorted(between)[:MAX_BETWEEN],
            "changes": book.changes,
        }
        book.recorded, book.touched, book.changes, book.since = book.now, set(), 0, self._clock.monotonic()
        book.receipt = self._journal.record_end(Event(kind, self._clock.now(), data))
