"""Events and chains for tests: real ones, made as the writer makes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from stepgrant.ids import ulid
from stepgrant_gateway.core.chain import link_data
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import GENESIS, ChainHead, Record, chained, encode_event
from tests.kit.clock import START

INSTANCE = ulid(START, b"instance-1")
OTHER = ulid(START, b"instance-2")
THIRD = ulid(START, b"instance-3")
TASK = ulid(START, b"task-00001")


def step_id(number: int) -> str:
    return ulid(START, b"step-%05d" % number)


def granted(number: int = 1, *, at: datetime = START, ttl: timedelta = timedelta(seconds=30), **data: Any) -> Event:
    """A `step.granted` as the application writes it, with an input."""
    issued = int(at.timestamp() * 1000)
    expires = issued + ttl // timedelta(milliseconds=1)
    whole = {"task": TASK, "step": step_id(number), "tool": "orders.get", "iat_ms": issued, "exp_ms": expires, **data}
    return Event(EventType.STEP_GRANTED, at, whole, input={"arguments": {"order_id": "ord_00000042"}})


def ended(number: int = 1, *, at: datetime = START, state: str = "completed") -> Event:
    return Event(EventType.STEP_ENDED, at, {"task": TASK, "step": step_id(number), "state": state, "code": state})


def started(heads: Iterable[ChainHead] = (), at: datetime = START) -> Event:
    return Event(EventType.GATEWAY_STARTED, at, {"heads": link_data(heads)})


def chain_of(*events: Event, instance: str = INSTANCE, after: ChainHead | None = None) -> list[Record]:
    """The records of a chain with just these events."""
    head = after or ChainHead(instance, 0, GENESIS)
    records = []
    for event in events:
        records.append(chained(head, encode_event(event, bytes(32) if event.input is not None else None)))
        head = head_of(records)
    return records


def head_of(records: list[Record]) -> ChainHead:
    return ChainHead(records[-1].instance_id, records[-1].sequence, records[-1].hash)


def counted_entropy() -> Callable[[int], bytes]:
    """Bytes that never repeat and are the same in every run."""
    counter = itertools.count()

    def entropy(count: int) -> bytes:
        block = sha256(b"entropy %d" % next(counter)).digest()
        return (block * (count // len(block) + 1))[:count]

    return entropy
