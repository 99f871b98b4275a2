"""A ledger store that fails when the test says so: refuses, hangs, loses its answer, or says nothing any more."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from stepgrant_gateway.core.ledger import ChainHead, DataKey, Record, SealedInput
from stepgrant_gateway.storage.memory import MemoryLedger


class StoreFailedError(Exception):
    """What a disk says."""


class FaultyStore:
    """`LedgerStore` before a `MemoryLedger`. All faults are off at first."""

    def __init__(self, inner: MemoryLedger | None = None) -> None:
        self.inner = inner or MemoryLedger()
        self.refuse = False
        """append raises, and nothing was stored"""
        self.refused: frozenset[int] = frozenset()
        """numbers of appends, from 1, that raise as if `refuse` were on"""
        self.lose_answer = False
        """append stores, and raises all the same"""
        self.mute = False
        """heads raises: nobody knows what is durable"""
        self.entered = threading.Event()
        """set when an append has begun"""
        self.free = threading.Event()
        """appends wait for it"""
        self.free.set()
        self.appends: list[int] = []
        """number of records of each append that was begun"""

    def block(self) -> None:
        """The next append hangs until `free` is set."""
        self.entered.clear()
        self.free.clear()

    def append(self, records: Sequence[Record], inputs: Sequence[SealedInput], keys: Sequence[DataKey] = ()) -> None:
        self.appends.append(len(records))
        number = len(self.appends)
        self.entered.set()
        if not self.free.wait(timeout=30):
            raise StoreFailedError("the test never freed the store")
        if self.refuse or number in self.refused:
            raise StoreFailedError("no space left on device")
        self.inner.append(records, inputs, keys)
        if self.lose_answer:
            raise StoreFailedError("input/output error")

    def heads(self) -> Sequence[ChainHead]:
        if self.mute:
            raise StoreFailedError("input/output error")
        return self.inner.heads()

    def read(self, instance_id: str, after: int, limit: int) -> Sequence[Record]:
        return self.inner.read(instance_id, after, limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
