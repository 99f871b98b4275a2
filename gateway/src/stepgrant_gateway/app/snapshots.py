"""Snapshots of the fold: made of what became durable, on a thread of their own, and named in the chain (ADR 0016)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from stepgrant_gateway.app.folding import Folded
from stepgrant_gateway.app.writing import WriterThread
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import ChainHead
from stepgrant_gateway.core.ports import Clock, Journal, Receipt, SnapshotStore
from stepgrant_gateway.core.snapshot import encode_snapshot, snapshot_digest

logger = logging.getLogger(__name__)

HANDED_OVER: Final = 512
"""Events that are folded at once: few enough not to hold up the event loop, enough not to wake a thread for each."""
WORTH_AT_STOP: Final = 10
"""A gateway that stops leaves a snapshot if this part of the interval was recorded since the last one."""
AT_STOP: Final = timedelta(seconds=5)
"""How long a gateway that stops waits for its last snapshot: the disk may not answer."""


class Snapshots:
    """Follows the ledger, and keeps a snapshot each `every` events. `follow`, `begin` and `close` are for the loop's thread."""

    def __init__(self, store: SnapshotStore, folded: Folded, every: int) -> None:
        """`folded` is what the ledger held at start; it belongs to this object from `begin` on."""
        self._store = store
        self._every = every
        self._earlier = folded.heads
        self._history = folded.history
        self._since = folded.followed
        self._whole = True
        self._gathered: list[Event] = []
        self._head: ChainHead | None = None
        self._thread: WriterThread | None = None
        self._journal: Journal | None = None
        self._clock: Clock | None = None

    def follow(self, events: Sequence[Event], head: ChainHead) -> None:
        """These events have become durable; `head` is the last of them."""
        self._gathered += events
        self._head = head
        if len(self._gathered) >= min(HANDED_OVER, self._every):
            self._hand_over(self._every)

    def begin(self, journal: Journal, clock: Clock) -> None:
        """Writes a snapshot now, if much had to be folded at start, and from now on."""
        self._journal, self._clock = journal, clock
        self._thread = WriterThread("ledger-snapshots")
        self._hand_over(self._every)

    async def close(self) -> None:
        """A last snapshot, if it is worth one, on record before this returns; then no more."""
        if self._thread is None:
            return
        done: asyncio.Future[Receipt | None] = asyncio.get_running_loop().create_future()
        self._hand_over(max(1, self._every // WORTH_AT_STOP), done)
        self._thread.stop()
        self._thread = None
        assert self._clock is not None  # noqa: S101 - as there was a thread
        late = self._clock.call_at(self._clock.monotonic() + AT_STOP, partial(_give_up, done))
        receipt = await done
        late.cancel()
        if receipt is not None:
            try:
                await receipt.durable()
            except UnrecordedError:
                logger.warning("The last snapshot of the ledger could not be recorded: the next start does without it.")

    def _hand_over(self, every: int, done: asyncio.Future[Receipt | None] | None = None) -> None:
        if self._thread is None or self._head is None:
            if done is not None:
                done.set_result(None)
            return
        events, self._gathered = self._gathered, []
        work = partial(self._take, events, self._head, every)
        self._thread.submit(asyncio.get_running_loop(), work, partial(self._taken, done))

    def _take(self, events: Sequence[Event], head: ChainHead, every: int) -> Event | None:
        """On the thread. What is to be recorded, if a snapshot was due."""
        if not self._whole:
            return None
        # An event that cannot be folded leaves a state that must never be written down.
        self._whole = False
        for event in events:
            self._history.follow(event)
        self._whole = True
        self._since += len(events)
        if self._since < every:
            return None
        self._since = 0
        self._history.tidy()
        data = encode_snapshot((*self._earlier, head), self._history)
        self._store.keep(data)
        assert self._clock is not None  # noqa: S101 - there is a thread only after `begin`
        named = {"sha256": snapshot_digest(data), "bytes": len(data), "sequence": head.sequence}
        return Event(EventType.LEDGER_SNAPSHOT, self._clock.now(), named)

    def _taken(self, done: asyncio.Future[Receipt | None] | None, result: Event | BaseException | None) -> None:
        receipt = None
        if isinstance(result, BaseException):
            logger.error("A snapshot of the ledger could not be made; the next start reads more.", exc_info=result)
        elif result is not None and self._journal is not None:
            receipt = self._journal.record(result)
        if done is not None and not done.done():
            done.set_result(receipt)


def _give_up(done: asyncio.Future[Receipt | None]) -> None:
    if not done.done():
        logger.warning("The last snapshot of the ledger was not there in time: the next start does without it.")
        done.set_result(None)
