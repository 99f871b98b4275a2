"""A recorder on a bench: over a store that fails on demand."""

from __future__ import annotations

import asyncio

from stepgrant_gateway.app.receipts import PendingReceipt
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.ledger import decode_event
from stepgrant_gateway.storage.inputs import DigestSealer
from tests.kit.chains import INSTANCE, counted_entropy
from tests.kit.clock import ManualClock
from tests.kit.faulty_store import FaultyStore


class Bench:
    """A recorder over a store that fails on demand, and the clock that both go by."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FaultyStore()
        self.signed: list[bytes] = []
        self.recorder = Recorder(self.store, DigestSealer(counted_entropy()), self.clock, INSTANCE, signer=self)

    def sign(self, message: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        self.signed.append(message)
        return b"signature", (b"leaf",)

    async def begun(self) -> None:
        """Until the store is in the middle of an append."""
        assert await asyncio.to_thread(self.store.entered.wait, 5)

    async def answered(self, receipt: PendingReceipt) -> int | str:
        try:
            return await asyncio.wait_for(receipt.durable(), 5)
        except UnrecordedError:
            return "unrecorded"

    async def until(self, appends: int) -> None:
        """Until so many appends were begun and the loop has heard of what became of the last one."""
        for _ in range(10):
            # The thread and the loop both keep order: what was under way before this is over after it.
            over = asyncio.Event()
            self.recorder._thread.submit(asyncio.get_running_loop(), lambda: None, lambda _, over=over: over.set())
            await asyncio.wait_for(over.wait(), 5)
        assert len(self.store.appends) == appends

    def stored(self) -> list[str]:
        return [decode_event(record.body).type.value for record in self.store.read(INSTANCE, 0, 10_000)]

    def said(self) -> list[tuple[str, object]]:
        events = [decode_event(record.body) for record in self.store.read(INSTANCE, 1, 10_000)]
        return [(event.type.value, event.data.get("step")) for event in events]
