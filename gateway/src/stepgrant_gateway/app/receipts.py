"""The promise of a record: kept, broken, or, for ends, late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import UNDELIVERED, Event, EventType


class PendingReceipt:
    """`Receipt` of one batch. Once `break_` has been called it never yields a sequence, unless it is the receipt of an end."""

    __slots__ = ("_awaited", "_failure", "_hearers", "_sequence", "deadline", "is_end")

    def __init__(self, deadline: timedelta, *, is_end: bool, awaited: Callable[[], None] | None = None) -> None:
        """`awaited` is called when somebody begins to wait."""
        self.deadline = deadline
        self.is_end = is_end
        self._awaited = awaited
        self._sequence: int | None = None
        self._failure: str | None = None
        self._hearers: list[Callable[[], object]] = []

    async def durable(self) -> int:
        """See `Receipt`."""
        while True:
            if self._failure is not None:
                raise UnrecordedError(self._failure)
            if self._sequence is not None:
                return self._sequence
            waiter = asyncio.get_running_loop().create_future()
            self._hear(partial(_wake, waiter))
            await waiter

    def then(self, hear: Callable[[UnrecordedError | None], object]) -> None:
        """See `Receipt`."""
        if self.pending:
            self._hear(lambda: hear(self._error))
        else:
            hear(self._error)

    def done(self) -> bool:
        """See `Receipt`."""
        return self._sequence is not None and self._failure is None

    @property
    def broken(self) -> bool:
        """True once `durable` raises."""
        return self._failure is not None

    @property
    def pending(self) -> bool:
        """True while nothing is known."""
        return self._failure is None and self._sequence is None

    def keep(self, sequence: int) -> None:
        """It is durable. A broken promise of anything but an end stays broken: its maker has been told so."""
        if self._failure is not None and not self.is_end:
            return
        self._sequence, self._failure = sequence, None
        self._tell()

    def break_(self, reason: str) -> None:
        """It is not durable, or not in time."""
        if self.pending:
            self._failure = reason
            self._tell()

    @property
    def _error(self) -> UnrecordedError | None:
        return None if self._failure is None else UnrecordedError(self._failure)

    def _hear(self, hearer: Callable[[], object]) -> None:
        self._hearers.append(hearer)
        if self._awaited is not None:
            self._awaited()

    def _tell(self) -> None:
        hearers, self._hearers = self._hearers, []
        for hearer in hearers:
            hearer()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def close_undelivered(events: Sequence[Event], now: datetime) -> Sequence[Event]:
    """Ends of what became durable after its receipt had failed: a task or an assignment that nobody was told of.

    For a step nothing is left to do here: whoever hears that a grant is unrecorded ends the step, and records that.
    """
    ends = []
    for event in events:
        if event.type is EventType.TASK_OPENED:
            reason = "the ledger answered too late: the task was never handed out."
            data = {"task": event.data["task"], "code": UNDELIVERED, "reason": reason}
            ends.append(Event(EventType.TASK_CLOSED, now, data))
        elif event.type is EventType.BRANCH_OPENED:
            reason = "the ledger answered too late: the branch was never handed out."
            data = {"task": event.data["task"], "branch": event.data["branch"], "code": UNDELIVERED, "reason": reason}
            ends.append(Event(EventType.BRANCH_CLOSED, now, data))
        elif event.type is EventType.ASSIGNMENT_MADE:
            data = {"assignment": event.data["assignment"], "by": "gateway", "task": "", "code": UNDELIVERED}
            ends.append(Event(EventType.ASSIGNMENT_WITHDRAWN, now, data))
    return ends
