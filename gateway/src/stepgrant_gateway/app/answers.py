"""An answer that somebody waits for without a task: it is handed on in the breath in which it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Answer(Generic[T]):
    """As an `asyncio.Future`, but that its callbacks are called at once, not in the next round of the loop.

    Callbacks do not raise.
    """

    __slots__ = ("_callbacks", "_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Answer[T]], object]] = []

    def done(self) -> bool:
        """True once it is known."""
        return self._done

    def result(self) -> T:
        """The answer; raises what it was failed with, or InvalidStateError while nothing is known."""
        if self._error is not None:
            raise self._error
        if not self._done:
            raise asyncio.InvalidStateError("no answer yet")
        return self._value  # type: ignore[return-value]  # it is done, so this is a T

    def set_result(self, value: T) -> None:
        """Gives the answer."""
        self._value = value
        self._settle()

    def set_exception(self, error: BaseException) -> None:
        """Says why there is none."""
        self._error = error
        self._settle()

    def add_done_callback(self, callback: Callable[[Answer[T]], object]) -> None:
        """Calls `callback` with this once it is known: now, if it is known already."""
        if self._done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def _settle(self) -> None:
        self._done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(_: Answer[T]) -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self.add_done_callback(wake)
            yield from waiter
        return self.result()


def answered(value: T) -> Answer[T]:
    """An answer that is known already."""
    answer: Answer[T] = Answer()
    answer.set_result(value)
    return answer
