"""A ledger as years of work leave it, written by the gateway's own writer: tasks, grants, redemptions, ends, over many lives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant_gateway.app.writing import ChainWriter
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.storage.inputs import DigestSealer
from stepgrant_gateway.storage.sqlite import SqliteLedger
from stepgrant_gateway.system import system_entropy

WORKLOADS: Final = 40
INSTANCES: Final = 50
"""Starts of each workload whose labels are told apart."""
STEPS: Final = 4
"""Steps of each task."""
PAUSE: Final = timedelta(seconds=1)
"""Between two events: a million of them are eleven days."""
_GROUP: Final = 2048
_POLICY: Final = "sha256:" + "ab" * 32


@dataclass(slots=True)
class Work:
    """Events one after the other, as the application words them. Its time goes on by PAUSE with each."""

    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    numbers: random.Random = field(default_factory=lambda: random.Random(20261122))

    def events(self) -> Iterator[Event]:
        """Without end: task by task, and now and then a lock that is set and lifted."""
        while True:
            yield from self._task()
            if self.numbers.random() < 0.01:
                yield from self._lock()

    def ulid(self) -> str:
        """A fresh id."""
        return ulid(self.at, self.numbers.randbytes(ULID_RANDOM_BYTES))

    def _event(self, kind: EventType, data: dict[str, Any], document: dict[str, Any] | None = None) -> Event:
        self.at += PAUSE
        return Event(kind, self.at, data, document)

    def _task(self) -> Iterator[Event]:
        task, workload = self.ulid(), f"spiffe://acme.org/agent/{self.numbers.randrange(WORKLOADS)}"
        opened = {
            "task": task, "decision": self.ulid(), "task_type": "Refund", "workload": workload, "peer_method": "x509",
            "instance_jkt": self.numbers.randrange(INSTANCES).to_bytes(32, "big").hex(), "labels": [],
            "policies": ["refund-opening"], "policy": _POLICY, "revision": 1, "expires_ms": self._ms(3600),
        }  # fmt: skip
        yield self._event(EventType.TASK_OPENED, opened, {"parameters": {"order_id": "ord_00000042"}})
        for _ in range(STEPS):
            step, grant = {"task": task, "step": self.ulid()}, self.ulid()
            granted = {
                **step, "parent": None, "decision": self.ulid(), "grant": grant, "tool": "orders.refund",
                "target": "pg://orders/ord_00000042", "audience": "https://orders.acme.org", "tier": "routine", "uses": 1,
                "iat_ms": self._ms(0), "exp_ms": self._ms(30), "labels": ["confidential"], "deltas": {"refunds": "12.50"},
                "policies": [{"id": "refund-writes", "file": "writes.cedar", "line": 12}],
                "policy": _POLICY, "revision": 1,
            }  # fmt: skip
            yield self._event(
                EventType.STEP_GRANTED, granted, {"arguments": {"order_id": "ord_00000042", "amount": 12}}
            )
            redeemed = {**step, "grant": grant, "tool": "orders.refund", "redemption": self.ulid(), "remaining": 0}
            yield self._event(EventType.GRANT_REDEEMED, {**redeemed, "by": "spiffe://acme.org/resource/orders"})
            ended = {**step, "grant": grant, "exp_ms": self._ms(30), "state": "completed", "code": "completed"}
            yield self._event(EventType.STEP_ENDED, {**ended, "reason": "", "by": "agent"})
        yield self._event(EventType.TASK_CLOSED, {"task": task, "code": "completed", "reason": "", "by": "agent"})

    def _lock(self) -> Iterator[Event]:
        lock, by = self.ulid(), "spiffe://acme.org/operator/jo"
        selector = {"workload": None, "task_type": None, "tool": "mail.*", "target": None}
        yield self._event(EventType.LOCK_SET, {"lock": lock, "selector": selector, "reason": "an incident", "by": by})
        yield self._event(EventType.LOCK_LIFTED, {"lock": lock, "reason": "over", "by": by})

    def _ms(self, seconds: int) -> int:
        return int(self.at.timestamp() + seconds) * 1000


def grow(path: Path, events: int, lives: int, *, begin: datetime | None = None) -> datetime:
    """Adds `events` events, in `lives` chains, to the ledger at `path`, or begins it; the time of the last of them."""
    work = Work(**({} if begin is None else {"at": begin}))
    source = work.events()
    with closing(SqliteLedger(path)) as store:
        for _ in range(lives):
            writer = ChainWriter(store, DigestSealer(system_entropy), work.ulid())
            started, _ = writer.started(work.at, {"issuer": "spiffe://acme.org/stepgrant"})
            _append(writer, [started])
            left = events // lives - 1
            while left > 0:
                group = list(islice(source, min(_GROUP, left)))
                left -= len(group)
                _append(writer, group)
    return work.at


def _append(writer: ChainWriter, group: list[Event]) -> None:
    written = writer.write([group])
    if not written.durable:
        raise RuntimeError("the ledger did not take it")
