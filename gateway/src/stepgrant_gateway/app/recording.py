"""Recording: batches in order, in groups, durable before a receipt is kept; ends are never dropped (invariant 3)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final

from stepgrant_gateway.app.answers import Answer
from stepgrant_gateway.app.checkpoints import Checkpoints
from stepgrant_gateway.app.receipts import PendingReceipt, close_undelivered
from stepgrant_gateway.app.tailing import Tail
from stepgrant_gateway.app.writing import ChainWriter, WriterThread, Written
from stepgrant_gateway.core.errors import GatewayError, UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import GENESIS, ChainHead, Record
from stepgrant_gateway.core.observations import UNOBSERVED, Count, Timing
from stepgrant_gateway.core.ports import Clock, LedgerStore, Observer, Sealer, SvidSigner, Timer
from stepgrant_gateway.core.revocation import Checkpoint

logger = logging.getLogger(__name__)

BOUND: Final = timedelta(seconds=2)
"""How long a receipt waits for the ledger before it fails: longer than a slow disk, shorter than a caller's patience."""
MAX_WAITING_BATCHES: Final = 4096
MAX_GROUP_BATCHES: Final = 256
"""Batches that one commit takes: more would make the first of them wait for the last."""
GATHERING: Final = timedelta(milliseconds=5)
"""How long ends that nobody waits for may wait for others, or for a decision, to share a commit with."""
FIRST_RETRY: Final = timedelta(milliseconds=50)
LAST_RETRY: Final = timedelta(seconds=5)

_NOT_RECORDED: Final = (
    "the ledger could not record this: it was not done. Try again; if it goes on, see the gateway's log."
)
_LATE: Final = "the ledger did not answer within {:g} s: {}."
_OVERLOADED: Final = "too much waits for the ledger: this was not done. Try again later."
_CLOSED: Final = "the ledger is closed: this was not done."


class _State(Enum):
    NEW = "new"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class _Batch:
    events: tuple[Event, ...]
    receipt: PendingReceipt


class Recorder:
    """`Journal` and `LedgerHead` of one gateway instance. All of it runs on one loop; the store only on one thread.

    While a group is committed the next one gathers. When an append fails, what the store says is durable decides;
    while it does not say, nothing more is written.
    """

    def __init__(
        self,
        store: LedgerStore,
        sealer: Sealer,
        clock: Clock,
        instance_id: str,
        *,
        signer: SvidSigner | None = None,
        bound: timedelta = BOUND,
        undelivered: Callable[[Sequence[Event], datetime], Sequence[Event]] = close_undelivered,
        observer: Observer = UNOBSERVED,
        followed: Callable[[Sequence[Event], ChainHead], None] | None = None,
    ) -> None:
        """`undelivered` gives the ends of events that became durable after their receipt had failed.

        `followed` hears of all that became durable, in order, with the head after it.
        """
        self._store = store
        self._clock = clock
        self._checkpoints = None if signer is None else Checkpoints(signer, clock)
        self._bound = bound
        self._undelivered = undelivered
        self._observer = observer
        self._given_at = timedelta(0)
        self._followed = followed
        self._writer = ChainWriter(store, sealer, instance_id)
        self._thread = WriterThread(f"ledger-{instance_id}")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state = _State.NEW
        self._waiting: deque[_Batch] = deque()
        self._group: tuple[_Batch, ...] = ()
        self._due: deque[PendingReceipt] = deque()
        self._bound_timer: Timer | None = None
        self._retry_timer: Timer | None = None
        self._gather_timer: Timer | None = None
        self._hurried = False
        self._retry_after = FIRST_RETRY
        self._head = ChainHead(instance_id, 0, GENESIS)
        self._latest: datetime | None = None
        self._tail = Tail(store, self._head)

    @property
    def position(self) -> int:
        """Sequence of the last durable event; 0 before the first."""
        return self._head.sequence

    @property
    def head(self) -> ChainHead:
        """The durable end of this instance's chain."""
        return self._head

    @property
    def latest_at(self) -> datetime | None:
        """Time of the latest durable event of all chains: a wall clock behind it must not mint (design 4)."""
        return self._latest

    @property
    def waiting(self) -> int:
        """Events that are not durable yet."""
        return sum(len(batch.events) for batch in (*self._group, *self._waiting))

    @property
    def lag(self) -> timedelta:
        """How long the oldest of them waits."""
        oldest = next(iter((*self._group, *self._waiting)), None)
        return timedelta(0) if oldest is None else self._clock.monotonic() - (oldest.receipt.deadline - self._bound)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be recorded now, or None."""
        if self._state in {_State.NEW, _State.CLOSED}:
            return "the ledger is closed"
        if self._retry_timer is not None:
            return "the last append failed, and is tried again"
        return f"the ledger has not answered for {self.lag.total_seconds():.1f} s" if self.lag > self._bound else None

    async def start(self, data: Mapping[str, Any] | None = None) -> int:
        """Begins the chain with `gateway.started`, which names the heads of the chains found; its sequence, 1.

        Raises:
            LedgerBrokenError: what the store holds is no ledger.
            UnrecordedError: the first event could not be recorded.
        """
        self._loop = asyncio.get_running_loop()
        found: Answer[tuple[Event, datetime | None]] = Answer()

        def opened(result: tuple[Event, datetime | None] | BaseException) -> None:
            if isinstance(result, BaseException):
                found.set_exception(result)
            else:
                found.set_result(result)

        self._thread.submit(self._loop, partial(self._writer.started, self._clock.now(), data or {}), opened)
        try:
            started, self._latest = await found
            self._state = _State.OPEN
            return await self.record(started).durable()
        except BaseException:
            # Without its first event there is no chain: nothing else may become the first.
            self._stop(_CLOSED)
            raise

    def record(self, *events: Event) -> PendingReceipt:
        """See `Journal`."""
        receipt = PendingReceipt(self._clock.monotonic() + self._bound, is_end=False)
        if self._state is not _State.OPEN:
            receipt.break_(_CLOSED)
        elif len(self._waiting) >= MAX_WAITING_BATCHES:
            receipt.break_(_OVERLOADED)
        else:
            self._take(_Batch(events, receipt))
        return receipt

    def record_end(self, *events: Event) -> PendingReceipt:
        """See `Journal`. Taken also while the journal closes; only a closed one cannot, and says so in the log."""
        receipt = PendingReceipt(self._clock.monotonic() + self._bound, is_end=True, awaited=self._hurry)
        if self._state in {_State.NEW, _State.CLOSED}:
            receipt.break_(_CLOSED)
            logger.error("the ledger is closed: %s cannot be recorded", ", ".join(event.type.value for event in events))
        else:
            self._take(_Batch(events, receipt))
        return receipt

    def checkpoint(self) -> Checkpoint | None:
        """The latest signed statement of how long the chain is, signed anew when that is due; None without a signer."""
        return None if self._checkpoints is None else self._checkpoints.of(self._head)

    def tail(self, after: int, *, follow: bool) -> AsyncIterator[Record]:
        """Durable records of this instance with a sequence above `after`; with `follow`, also those to come."""
        return self._tail.records(after, follow=follow)

    async def close(self) -> None:
        """Records `gateway.stopped` after all that waits, and ends. What the ledger does not take in time is logged."""
        if self._state is _State.OPEN:
            self._state = _State.CLOSING
            try:
                await self.record_end(Event(EventType.GATEWAY_STOPPED, self._clock.now(), {})).durable()
            except UnrecordedError:
                lost = [batch for batch in (*self._group, *self._waiting) if batch.receipt.is_end]
                logger.error("the ledger did not take the last %d ends before the gateway stopped", len(lost))  # noqa: TRY400 - the ledger's own error is logged already
        self._stop(_CLOSED)

    def _take(self, batch: _Batch) -> None:
        self._waiting.append(batch)
        self._due.append(batch.receipt)
        if self._bound_timer is None:
            self._bound_timer = self._clock.call_at(batch.receipt.deadline, self._overdue)
        self._hurried = self._hurried or not batch.receipt.is_end or self._state is not _State.OPEN
        self._write_next()

    def _hurry(self) -> None:
        self._hurried = True
        self._write_next()

    def _write_next(self) -> None:
        if self._group or self._retry_timer is not None or not self._waiting or self._loop is None:
            return
        if not self._hurried:
            if self._gather_timer is None:
                self._gather_timer = self._clock.call_at(self._clock.monotonic() + GATHERING, self._hurry)
            return
        if self._gather_timer is not None:
            self._gather_timer.cancel()
            self._gather_timer = None
        self._hurried = len(self._waiting) > MAX_GROUP_BATCHES
        count = min(len(self._waiting), MAX_GROUP_BATCHES)
        self._group = tuple(self._waiting.popleft() for _ in range(count))
        work = partial(self._writer.write, [batch.events for batch in self._group])
        self._given_at = self._clock.monotonic()
        self._thread.submit(self._loop, work, self._written)

    def _written(self, result: Written | BaseException) -> None:
        if self._state is _State.CLOSED:
            return
        if isinstance(result, BaseException):
            reason = str(result) if isinstance(result, GatewayError) else _NOT_RECORDED
            self._end("the ledger is closed for good; nothing is granted any more", reason, result)
            return
        if result.durable:
            self._observer.time(Timing.LEDGER_APPEND, self._clock.monotonic() - self._given_at)
        else:
            self._observer.count(Count.LEDGER_FAILURE, "unknown" if result.durable is None else "failed")
        if result.durable is None:
            self._retry(self._settle)
            return
        group, self._group = self._group, ()
        self._advance(result, group)
        again: list[_Batch] = []
        kept: list[tuple[PendingReceipt, int]] = []
        broken: list[PendingReceipt] = []
        undelivered: list[Event] = []
        for index, (batch, sequence) in enumerate(zip(group, result.sequences, strict=True)):
            receipt = batch.receipt
            if sequence is not None:
                if receipt.broken and not receipt.is_end:
                    undelivered += batch.events
                kept.append((receipt, sequence))
            elif receipt.is_end and index not in result.invalid:
                again.append(batch)
            else:
                broken.append(receipt)
        self._waiting.extendleft(reversed(again))
        if any(receipt.is_end for receipt in broken):
            # An end that no retry can record: the ledger is not the whole truth any more, so nothing goes on from it.
            self._end("an end cannot be recorded as it is: the ledger is closed for good", _NOT_RECORDED)
        else:
            self._end_undelivered(undelivered)
            if again:
                self._retry(self._hurry)
            else:
                self._retry_after = FIRST_RETRY
                self._write_next()
        # Last, since whoever hears of it may have more to record.
        for receipt, sequence in kept:
            receipt.keep(sequence)
        for receipt in broken:
            receipt.break_(_NOT_RECORDED)

    def _advance(self, result: Written, group: Sequence[_Batch]) -> None:
        self._head = result.head
        kept = (batch for batch, sequence in zip(group, result.sequences, strict=True) if sequence is not None)
        events = [event for batch in kept for event in batch.events]
        if events:
            last = max(event.at for event in events)
            self._latest = last if self._latest is None else max(self._latest, last)
            if self._followed is not None:
                self._followed(events, result.head)
        self._tail.move(self._head)
        while self._due and not self._due[0].pending:
            self._due.popleft()

    def _end_undelivered(self, events: Sequence[Event]) -> None:
        if not events:
            return
        logger.warning("%d events became durable after their callers were told that they had not", len(events))
        ends = tuple(self._undelivered(events, self._clock.now()))
        if ends:
            receipt = PendingReceipt(self._clock.monotonic() + self._bound, is_end=True)
            # Before anything else: nothing is minted until what was not delivered has ended.
            self._waiting.appendleft(_Batch(ends, receipt))
            self._hurried = True

    def _retry(self, then: Callable[[], None]) -> None:
        def again() -> None:
            self._retry_timer = None
            then()

        self._retry_timer = self._clock.call_at(self._clock.monotonic() + self._retry_after, again)
        self._retry_after = min(self._retry_after * 2, LAST_RETRY)

    def _settle(self) -> None:
        if self._loop is not None and self._state is not _State.CLOSED:
            self._thread.submit(self._loop, self._writer.settle, self._written)

    def _overdue(self) -> None:
        self._bound_timer = None
        now = self._clock.monotonic()
        late: list[PendingReceipt] = []
        while self._due and (not self._due[0].pending or self._due[0].deadline <= now):
            late.append(self._due.popleft())
        self._waiting = deque(batch for batch in self._waiting if batch.receipt.is_end or batch.receipt.deadline > now)
        if self._due:
            self._bound_timer = self._clock.call_at(self._due[0].deadline, self._overdue)
        for receipt in late:
            outcome = "in force, not yet recorded" if receipt.is_end else "this was not done"
            receipt.break_(_LATE.format(self._bound.total_seconds(), outcome))

    def _end(self, what: str, reason: str, error: BaseException | None = None) -> None:
        self._observer.count(Count.LEDGER_FAILURE, "closed")
        logger.critical(what, exc_info=error, extra={"event": "ledger_closed"})
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        self._state = _State.CLOSED
        for timer in (self._bound_timer, self._retry_timer, self._gather_timer):
            if timer is not None:
                timer.cancel()
        left = (*self._group, *self._waiting)
        self._waiting.clear()
        self._thread.stop()
        self._tail.end()
        for batch in left:
            batch.receipt.break_(reason)
