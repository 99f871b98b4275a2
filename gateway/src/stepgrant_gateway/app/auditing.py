"""What the ledger says: whether it holds, what happened in sum, and event by event."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stepgrant_gateway.core.chain import VerifiedChain, Witness, chain_links, follow_chain, verify_chain
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.ledger import ChainHead, DataKey, Record, SealedInput, StoredEvent
from stepgrant_gateway.core.ports import LedgerReading

PAGE: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class VerifiedLedger:
    """A ledger that holds, chain by chain in the order of their beginning. `witnesses`: checkpoints it was held against."""

    chains: tuple[VerifiedChain, ...]
    witnesses: int

    @property
    def events(self) -> int:
        """Events in all chains."""
        return sum(chain.events for chain in self.chains)


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened, in numbers. `held`: time that grants were good for, from issue to end, replacement or `exp`."""

    events: int
    tasks: int
    tasks_denied: int
    steps_granted: int
    steps_denied: int
    grants: int
    redemptions: int
    held: timedelta
    ends: Mapping[str, int]
    denials: Mapping[str, int]
    locks: int


@dataclass(slots=True)
class _Held:
    """Grants that are open while the ledger is read, by step, and the time that the others were held."""

    open: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    milliseconds: int = 0

    def issue(self, step: tuple[str, str], issued: int, expires: int) -> None:
        self.end(step, issued)
        self.open[step] = (issued, expires)

    def end(self, step: tuple[str, str], at: int) -> None:
        if step in self.open:
            issued, expires = self.open.pop(step)
            self.milliseconds += max(0, min(at, expires) - issued)

    def run_out(self) -> int:
        return self.milliseconds + sum(max(0, expires - issued) for issued, expires in self.open.values())


def read_all(
    store: LedgerReading, witnesses: Iterable[Witness] = (), after: Iterable[ChainHead] = ()
) -> Iterator[StoredEvent]:
    """Every event of every chain, each verified before it is given out; chains in the order of their beginning.

    Verified when exhausted: each chain, the heads that later chains name, and the `witnesses`. With `after`, of those
    chains only the records beyond these heads are read, and of what lies before them only what somebody remembers.

    Raises:
        LedgerBrokenError: naming instance, sequence and what is wrong.
    """
    known = {head.instance_id: head for head in after}
    instances, awaited = _witnessed(store, witnesses)
    for witness in awaited:
        if witness.head.instance_id in known and witness.head.sequence <= known[witness.head.instance_id].sequence:
            _require(store, witness)
    for instance_id in instances:
        begin = known.get(instance_id)
        pages = _pages(store, instance_id, begin.sequence if begin is not None else 0)
        yield from follow_chain(instance_id, pages, after=begin, witnesses=awaited)


def verify_ledger(store: LedgerReading, checkpoints: Iterable[Witness] = ()) -> VerifiedLedger:
    """What holds. `checkpoints`: verified ones (`core.chain.verify_checkpoint`), without which a cut end is not seen.

    Raises:
        LedgerBrokenError: naming instance, sequence and what is wrong.
    """
    remembered = tuple(checkpoints)
    instances, awaited = _witnessed(store, remembered)
    chains = tuple(verify_chain(name, _pages(store, name), witnesses=awaited) for name in instances)
    return VerifiedLedger(chains, len(remembered))


def summarise(store: LedgerReading) -> Summary:
    """The ledger in numbers, verified on the way.

    Raises:
        LedgerBrokenError: it does not hold.
    """
    counts: Counter[EventType] = Counter()
    ends: Counter[str] = Counter()
    denials: Counter[str] = Counter()
    held = _Held()
    for stored in read_all(store):
        event, data = stored.event, stored.event.data
        counts[event.type] += 1
        at = (event.at - _EPOCH) // _MILLISECOND
        try:
            if event.type in {EventType.STEP_GRANTED, EventType.STEP_RENEWED}:
                # Not from `iat`: whole seconds (design 4), so up to a second before the grant was there.
                held.issue((data["task"], data["step"]), at, data["exp_ms"])
            elif event.type is EventType.STEP_ENDED:
                ends[data["state"]] += 1
                held.end((data["task"], data["step"]), at)
            elif event.type in {EventType.STEP_DENIED, EventType.TASK_DENIED}:
                denials[data["code"]] += 1
        except (KeyError, TypeError) as error:
            raise LedgerBrokenError(
                f"ledger of gateway instance {stored.instance_id}: record {stored.sequence} is a {event.type.value}"
                " without what such an event holds."
            ) from error
    return Summary(
        events=counts.total(),
        tasks=counts[EventType.TASK_OPENED],
        tasks_denied=counts[EventType.TASK_DENIED],
        steps_granted=counts[EventType.STEP_GRANTED],
        steps_denied=counts[EventType.STEP_DENIED],
        grants=counts[EventType.STEP_GRANTED] + counts[EventType.STEP_RENEWED],
        redemptions=counts[EventType.GRANT_REDEEMED],
        held=timedelta(milliseconds=held.run_out()),
        ends=dict(sorted(ends.items())),
        denials=dict(sorted(denials.items())),
        locks=counts[EventType.LOCK_SET],
    )


def show(
    store: LedgerReading,
    *,
    task: str | None = None,
    types: frozenset[EventType] = frozenset(),
    limit: int | None = None,
    open_input: Callable[[StoredEvent], Mapping[str, Any] | None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Events as plain JSON objects, oldest first, verified on the way; each filter that is given must match.

    `limit`: only the last so many. `open_input`: gives the input of an event to those who have the key to it.

    Raises:
        LedgerBrokenError: the ledger does not hold.
    """
    found = (
        stored
        for stored in read_all(store)
        if (task is None or stored.event.data.get("task") == task) and (not types or stored.event.type in types)
    )
    for stored in found if limit is None else deque(found, maxlen=limit):
        line: dict[str, Any] = {
            "instance": stored.instance_id,
            "sequence": stored.sequence,
            "at": stored.event.at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "type": stored.event.type.value,
            "data": dict(stored.event.data),
        }
        if stored.input_sha256 is not None:
            line["input_sha256"] = stored.input_sha256.hex()
            opened = open_input(stored) if open_input is not None else None
            if opened is not None:
                line["input"] = dict(opened)
        yield line


def opening(
    input_of: Callable[[str, int], tuple[SealedInput, DataKey] | None],
    open_sealed: Callable[[SealedInput, DataKey, bytes], Mapping[str, Any]],
) -> Callable[[StoredEvent], Mapping[str, Any] | None]:
    """An `open_input` for `show`, from the store's `input_of` and an opener's `open`; None for inputs that are gone."""

    def open_input(stored: StoredEvent) -> Mapping[str, Any] | None:
        found = input_of(stored.instance_id, stored.sequence)
        return None if found is None or stored.input_sha256 is None else open_sealed(*found, stored.input_sha256)

    return open_input


def _witnessed(store: LedgerReading, witnesses: Iterable[Witness]) -> tuple[Sequence[str], Sequence[Witness]]:
    """Every chain that is there, and everybody's word on chains: the witnesses, and the heads that later chains name."""
    heads = store.heads()
    instances = [head.instance_id for head in heads]
    awaited = [*witnesses, *(Witness(head, "the ledger's list of chains") for head in heads)]
    for instance_id in instances:
        for started in follow_chain(instance_id, store.read(instance_id, 0, 1)):
            awaited += [Witness(head, f"the chain of {instance_id}") for head in chain_links(started)]
    there = frozenset(instances)
    for witness in awaited:
        if witness.head.instance_id not in there:
            raise LedgerBrokenError(
                f"ledger of gateway instance {witness.head.instance_id}: record 1 is missing: {witness.source} remembers"
                f" {witness.head.sequence} records."
            )
    return instances, awaited


def _require(store: LedgerReading, witness: Witness) -> None:
    head = witness.head
    if [record.hash for record in store.read(head.instance_id, head.sequence - 1, 1)] != [head.hash]:
        raise LedgerBrokenError(
            f"ledger of gateway instance {head.instance_id}: record {head.sequence} is not the record that"
            f" {witness.source} remembers."
        )


def _pages(store: LedgerReading, instance_id: str, after: int = 0) -> Iterator[Record]:
    while page := store.read(instance_id, after, PAGE):
        yield from page
        after += len(page)
