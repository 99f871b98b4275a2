"""What requests of a task pass on their way to its stream: held back while the task moves, and counted while they wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

MAX_IN_FLIGHT: Final = 64
"""Requests that wait for an answer at once; more of them queue here rather than be denied as `overloaded`."""


class Gate:
    """Open at first. Who has passed has asked or is about to, without a pause in between."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._inside = 0
        self._opened = asyncio.Event()
        self._opened.set()
        self._emptied = asyncio.Event()
        self._emptied.set()

    @property
    def is_open(self) -> bool:
        """True if nobody is held back."""
        return self._opened.is_set()

    def open(self) -> None:
        """Lets through who waits."""
        self._opened.set()

    def shut(self) -> None:
        """Holds back who has not passed, however long they have waited."""
        self._opened.clear()

    async def empty(self) -> None:
        """Returns when everybody who passed has their answer."""
        await self._emptied.wait()

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Begins as soon as the gate is open and there is room; lasts until the answer is there."""
        async with self._slots:
            while not self._opened.is_set():
                await self._opened.wait()
            self._inside += 1
            self._emptied.clear()
            try:
                yield
            finally:
                self._inside -= 1
                if not self._inside:
                    self._emptied.set()
