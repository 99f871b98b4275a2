"""The writer of one chain: what happens on its thread. Sequences, hashes and seals are made here, in order."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

from stepgrant_gateway.core.chain import MAX_LINKS, chain_links, follow_chain, link_data
from stepgrant_gateway.core.errors import EventInvalidError, LedgerBrokenError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import (
    GENESIS,
    ChainHead,
    DataKey,
    Record,
    Sealed,
    SealedInput,
    chain_tag,
    chained,
    decode_event,
    encode_event,
)
from stepgrant_gateway.core.ports import LedgerStore, Sealer

logger = logging.getLogger(__name__)

Work = TypeVar("Work")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one group. `sequences`: of each batch's last event, or None when it is not recorded.

    `durable` None: not known yet, ask `settle`. `invalid`: indexes of batches that cannot be stored as they are.
    """

    head: ChainHead
    durable: bool | None
    sequences: tuple[int | None, ...] = ()
    invalid: frozenset[int] = frozenset()


class ChainWriter:
    """Appends groups of batches to the chain of this gateway instance. Blocking; used from one thread."""

    def __init__(self, store: LedgerStore, sealer: Sealer, instance_id: str) -> None:
        self._store = store
        self._sealer = sealer
        self._tag = chain_tag(instance_id)
        self._head = ChainHead(instance_id, 0, GENESIS)
        self._unsettled: Written | None = None
        """What is said of the group that follows the head, if it becomes durable."""

    def started(self, at: datetime, data: Mapping[str, Any]) -> tuple[Event, datetime | None]:
        """The first event of the chain, naming the heads of chains that no chain names yet; and the time of the latest event.

        Raises:
            LedgerBrokenError: a chain found does not begin, or end, as a chain does; or this instance has one already.
        """
        heads = {head.instance_id: head for head in self._store.heads()}
        if self._head.instance_id in heads:
            raise LedgerBrokenError(
                f"gateway instance {self._head.instance_id} has a chain already; each start is a new one."
            )
        named: set[str] = set()
        latest: datetime | None = None
        for head in heads.values():
            first = next(follow_chain(head.instance_id, self._store.read(head.instance_id, 0, 1)), None)
            last = self._store.read(head.instance_id, head.sequence - 1, 1)
            if first is None or not last:
                raise LedgerBrokenError(f"ledger of gateway instance {head.instance_id}: record 1 is missing.")
            named |= {link.instance_id for link in chain_links(first)}
            ended = decode_event(last[0].body).at
            latest = ended if latest is None else max(latest, ended)
        unnamed = [head for head in heads.values() if head.instance_id not in named][:MAX_LINKS]
        return Event(EventType.GATEWAY_STARTED, at, {**data, "heads": link_data(unnamed)}), latest

    def write(self, batches: Sequence[Sequence[Event]]) -> Written:
        """Appends the batches as one group: all of it becomes durable, or nothing. Never raises for the store's sake.

        Raises:
            LedgerBrokenError: the store holds something else than this writer wrote; it must not write any more.
        """
        head: ChainHead | Record = self._head
        records: list[Record] = []
        inputs: list[SealedInput] = []
        keys: dict[str, DataKey] = {}
        sequences: list[int | None] = []
        invalid: set[int] = set()
        for index, batch in enumerate(batches):
            try:
                made, sealed = self._chain(head, batch)
            except Exception as error:  # noqa: BLE001 - one batch that nothing can be made of must not keep the others out
                # Without its cause, which may quote a value.
                what = error if isinstance(error, EventInvalidError) else type(error).__name__
                logger.error("a batch of %d events cannot be recorded as it is: %s", len(batch), what)  # noqa: TRY400
                invalid.add(index)
                sequences.append(None)
                continue
            records += made
            head = made[-1] if made else head
            for item in sealed:
                if item.input is not None:
                    inputs.append(item.input)
                if item.key is not None:
                    keys[item.key.key_id] = item.key
            sequences.append(head.sequence)
        after = ChainHead(head.instance_id, head.sequence, head.hash) if records else self._head
        self._unsettled = Written(after, durable=True, sequences=tuple(sequences), invalid=frozenset(invalid))
        if records:
            try:
                self._store.append(records, inputs, tuple(keys.values()))
            except LedgerBrokenError:
                raise
            except Exception:
                logger.exception(
                    "an append to the ledger failed; finding out what is durable",
                    extra={"event": "ledger_append_failed"},
                )
                return self.settle()
        return self._settled(after)

    def settle(self) -> Written:
        """What became of the group whose outcome is unknown, from what the store says is durable.

        Raises:
            LedgerBrokenError: as `write`.
        """
        if self._unsettled is None:
            return Written(self._head, durable=True)
        try:
            found = {head.instance_id: head for head in self._store.heads()}
        except LedgerBrokenError:
            raise
        except Exception:
            logger.exception(
                "the ledger does not say what is durable; nothing is recorded until it does",
                extra={"event": "ledger_outcome_unknown"},
            )
            return Written(self._head, durable=None)
        empty = ChainHead(self._head.instance_id, 0, GENESIS)
        return self._settled(found.get(self._head.instance_id, empty))

    def _settled(self, head: ChainHead) -> Written:
        group = self._unsettled
        assert group is not None  # noqa: S101 - both callers have just seen it
        if head not in (group.head, self._head):
            raise LedgerBrokenError(
                f"ledger of gateway instance {head.instance_id}: ends at record {head.sequence}, which this gateway did"
                " not write there. Another writer, or a file put back: nothing more is recorded."
            )
        self._unsettled, self._head = None, head
        if head.sequence == group.head.sequence:
            return group
        return Written(head, durable=False, sequences=(None,) * len(group.sequences), invalid=group.invalid)

    def _chain(self, head: ChainHead | Record, batch: Sequence[Event]) -> tuple[list[Record], list[Sealed]]:
        records: list[Record] = []
        sealed: list[Sealed] = []
        for event in batch:
            digest = None
            if event.input is not None:
                item = self._sealer.seal(event, head.instance_id, head.sequence + 1)
                sealed.append(item)
                digest = item.digest
            head = chained(head, encode_event(event, digest), self._tag)
            records.append(head)
        return records, sealed


class WriterThread:
    """One thread that does what it is given, in order, and tells the loop. A call that never returns holds up only this."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon: a write that hangs must not keep the process from ending.
        self._thread: Final = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, loop: AbstractEventLoop, work: Callable[[], Work], done: Callable[[Work | BaseException], None]
    ) -> None:
        """Runs `work` on the thread, then `done` on the loop, with what it returned or raised."""

        def task() -> None:
            result: Work | BaseException
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
                result = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done, result)

        self._queue.put(task)

    def stop(self) -> None:
        """Lets the thread end after what it was given."""
        self._queue.put(None)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            task()
