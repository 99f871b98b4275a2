"""From blocking code to the loop that serves a task's stream."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from stepgrant.errors import MisuseError
from stepgrant.step import Step

_T = TypeVar("_T")


def wait_for(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, run on `loop`, which another thread drives. Interrupted, it cancels the work.

    Raises:
        MisuseError: called on the loop's own thread, where waiting would never end.
    """
    if _running() is loop:
        work.close()
        raise MisuseError(
            "a blocking tool was called on the event loop's own thread: make it `async def`, "
            "or call it with `await asyncio.to_thread(...)`"
        )
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class BlockingStep:
    """A step for `with`: as `Step`, but a body that is revoked runs on, and hears of it at its end and at its next call."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def __enter__(self) -> Step:
        """Declares, and holds the grant."""
        wait_for(self._step.holder.loop, self._step.begin())
        self._step.enter()
        return self._step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Reports how the body came out."""
        self._step.leave()
        wait_for(self._step.holder.loop, self._step.finish(error))
        if error is None:
            self._step.refuse_ended()


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
