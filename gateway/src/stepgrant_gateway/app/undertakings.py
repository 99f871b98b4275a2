"""Undertakings: what goes on to its end once it is begun, also when whoever asked for it has gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Undertakings:
    """gRPC cancels the handler of a caller that hangs up; between a record and its effect that must not happen."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """The running work; wait for it under `asyncio.shield`."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Whoever still waits hears of it; whoever has gone must not become "never retrieved" in the log.
            logger.info("what was begun came to nothing: %s", type(task.exception()).__name__)

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What the work comes to. A caller that is cancelled does not stop it."""
        return await asyncio.shield(self.begin(work))
