"""How a chain is verified, record by record, and what a checkpoint says of it (design 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from stepgrant import feed
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.ledger import (
    GENESIS,
    ChainHead,
    Record,
    StoredEvent,
    decode_body,
    is_instance,
    record_hash,
)
from stepgrant_gateway.core.revocation import Checkpoint

MAX_LINKS: Final = 256
"""Heads of earlier chains that one `gateway.started` names; any that are left the next start names."""

SignatureCheck = Callable[[tuple[bytes, ...], bytes, bytes], None]
"""Takes SVID chain (leaf first, DER), message and signature; raises unless the gateway's SVID signed the message."""


@dataclass(frozen=True, slots=True)
class Witness:
    """Somebody's word that record `head.sequence` of a chain had this hash. `source` names who says so, for people."""

    head: ChainHead
    source: str


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that holds: its head, the times of its first and last event, and whether its gateway ended it in order.

    Not `stopped`: the gateway runs, or was killed.
    """

    head: ChainHead
    first_at: datetime
    last_at: datetime
    stopped: bool

    @property
    def events(self) -> int:
        """Number of events."""
        return self.head.sequence


def follow_chain(
    instance_id: str,
    records: Iterable[Record],
    *,
    after: ChainHead | None = None,
    witnesses: Iterable[Witness] = (),
) -> Iterator[StoredEvent]:
    """The events of one chain, each verified before it is given out; the whole chain is verified when this is exhausted.

    `after` None = from the first record on. `witnesses` (a checkpoint, a head named by a later chain) are compared at
    their place; one beyond the end of the chain means that it was cut.

    Raises:
        LedgerBrokenError: naming instance, sequence and what is wrong: an edit, a removal, an insertion, another order
            or a cut is found at its place.
    """
    head = after or ChainHead(instance_id, 0, GENESIS)
    awaited = _by_sequence(instance_id, witnesses)
    for record in records:
        # 1. The record is of this chain.
        if record.instance_id != instance_id:
            raise _broken(instance_id, head.sequence + 1, f"holds a record of {str(record.instance_id)[:32]}")
        # 2. It is the next one: none left out, none twice, none out of order.
        if record.sequence != head.sequence + 1:
            raise _broken(instance_id, head.sequence + 1, f"is missing or out of order: {record.sequence} follows")
        # 3. It names the record before it.
        if record.previous_hash != head.hash:
            raise _broken(
                instance_id, record.sequence, "does not name the record before it; one of the two was changed"
            )
        # 4. Its hash is that of the very bytes that are stored.
        if record.hash != record_hash(instance_id, record.sequence, record.previous_hash, record.body):
            raise _broken(instance_id, record.sequence, "was changed: its hash is not that of its bytes")
        # 5. Whoever remembers this record remembers the same one.
        for witness in awaited.pop(record.sequence, ()):
            if witness.head.hash != record.hash:
                raise _broken(instance_id, record.sequence, f"is not the record that {witness.source} remembers")
        # 6. Its bytes are an event that this version knows.
        try:
            event, digest = decode_body(record.body)
        except LedgerBrokenError as error:
            raise _broken(instance_id, record.sequence, f"is {error}") from error
        # 7. The chain starts with its gateway, once.
        if (event.type is EventType.GATEWAY_STARTED) != (record.sequence == 1):
            raise _broken(
                instance_id, record.sequence, "breaks the rule that the first event, and no other, starts a chain"
            )
        head = ChainHead(instance_id, record.sequence, record.hash)
        yield StoredEvent(instance_id, record.sequence, event, digest)
    # 8. The chain is as long as everybody remembers.
    for sequence in sorted(awaited):
        if sequence > head.sequence:
            source = awaited[sequence][0].source
            raise _broken(instance_id, head.sequence + 1, f"is missing: {source} remembers {sequence} records")


def verify_chain(
    instance_id: str,
    records: Iterable[Record],
    *,
    witnesses: Iterable[Witness] = (),
) -> VerifiedChain:
    """The verified chain; its steps are those of `follow_chain`.

    Raises:
        LedgerBrokenError: as `follow_chain`, and for a chain without any record.
    """
    head = ChainHead(instance_id, 0, GENESIS)
    first: StoredEvent | None = None
    last: StoredEvent | None = None

    def noted() -> Iterator[Record]:
        nonlocal head
        for record in records:
            head = ChainHead(record.instance_id, record.sequence, record.hash)
            yield record

    for stored in follow_chain(instance_id, noted(), witnesses=witnesses):
        first, last = first or stored, stored
    if first is None or last is None:
        raise _broken(instance_id, 1, "is missing: the chain is empty")
    return VerifiedChain(head, first.event.at, last.event.at, last.event.type is EventType.GATEWAY_STOPPED)


def chain_links(started: StoredEvent) -> tuple[ChainHead, ...]:
    """The heads of earlier chains that a `gateway.started` names.

    Raises:
        LedgerBrokenError: its `heads` are not of the form {instance, sequence, hash}.
    """
    named = started.event.data.get("heads")
    if not isinstance(named, list) or len(named) > MAX_LINKS:
        raise _broken(started.instance_id, started.sequence, f"does not name at most {MAX_LINKS} heads")
    return tuple(_link(started, item) for item in named)


def link_data(heads: Iterable[ChainHead]) -> list[dict[str, Any]]:
    """The form in which `gateway.started` names heads."""
    return [{"instance": head.instance_id, "sequence": head.sequence, "hash": head.hash.hex()} for head in heads]


def checkpoint_message(head: ChainHead) -> bytes:
    """What the signature of this head's checkpoint is over."""
    return feed.checkpoint_message(head.instance_id, head.sequence, head.hash)


def verify_checkpoint(checkpoint: Checkpoint, check: SignatureCheck) -> Witness:
    """The witness that a checkpoint is, once its signature holds; raises what `check` raises."""
    head = ChainHead(checkpoint.instance_id, checkpoint.sequence, checkpoint.hash)
    check(checkpoint.svid_chain, checkpoint_message(head), checkpoint.signature)
    return Witness(head, "a signed checkpoint")


def _by_sequence(instance_id: str, witnesses: Iterable[Witness]) -> dict[int, list[Witness]]:
    found: dict[int, list[Witness]] = {}
    for witness in witnesses:
        if witness.head.instance_id == instance_id:
            found.setdefault(witness.head.sequence, []).append(witness)
    return found


def _link(started: StoredEvent, item: object) -> ChainHead:
    if isinstance(item, dict) and item.keys() == {"instance", "sequence", "hash"}:
        instance, sequence, text = item["instance"], item["sequence"], item["hash"]
        hexadecimal = isinstance(text, str) and len(text) == 64 and not text.strip("0123456789abcdef")
        if is_instance(instance) and type(sequence) is int and sequence > 0 and hexadecimal:
            return ChainHead(instance, sequence, bytes.fromhex(text))
    raise _broken(started.instance_id, started.sequence, "names a head that is not {instance, sequence, hash}")


def _broken(instance_id: str, sequence: int, what: str) -> LedgerBrokenError:
    return LedgerBrokenError(f"ledger of gateway instance {instance_id}: record {sequence} {what}.")
