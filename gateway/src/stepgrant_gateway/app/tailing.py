"""Following a chain: what is durable, and then what becomes so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from stepgrant_gateway.core.ledger import ChainHead, Record
from stepgrant_gateway.core.ports import LedgerStore

TAIL_PAGE: Final = 256


class Tail:
    """The durable part of one chain, for any number of readers."""

    def __init__(self, store: LedgerStore, head: ChainHead) -> None:
        self._store = store
        self._head = head
        self._ended = False
        self._waiting: list[asyncio.Future[None]] = []

    async def records(self, after: int, *, follow: bool) -> AsyncIterator[Record]:
        """Records with a sequence above `after`; with `follow`, also those to come, until the chain ends."""
        while True:
            if after < self._head.sequence:
                page = await asyncio.to_thread(self._store.read, self._head.instance_id, after, TAIL_PAGE)
                for record in page:
                    yield record
                    after = record.sequence
                if page:
                    continue
            if not follow or self._ended:
                return
            moved = asyncio.get_running_loop().create_future()
            self._waiting.append(moved)
            await moved

    def move(self, head: ChainHead) -> None:
        """The chain is durable up to `head`."""
        self._head = head
        self._wake()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
