"""A ledger whose pace the test sets, so that the order of what happens is the test's choice."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from stepgrant_gateway.core.ledger import DataKey, Record, SealedInput
from stepgrant_gateway.storage.memory import MemoryLedger


class SteppedStore(MemoryLedger):
    """Takes a group of records only when it is let; before `hold` at once."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = False
        self.permits = threading.Semaphore(0)

    def append(self, records: Sequence[Record], inputs: Sequence[SealedInput], keys: Sequence[DataKey] = ()) -> None:
        if self.holding:
            assert self.permits.acquire(timeout=30), "nobody let the store go on"
        super().append(records, inputs, keys)
