"""Keeps the trusted feed fed: subscribes, hands events on, and subscribes anew when trust has ended or identity changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Final

from stepgrant.clock import Clock
from stepgrant.errors import GatewayUnavailableError, StepgrantError
from stepgrant.feed import FeedEvent
from stepgrant.verify.feed import TrustedFeed
from stepgrant.verify.upstream import Publisher

FIRST_WAIT: Final = timedelta(milliseconds=50)
LONGEST_WAIT: Final = timedelta(seconds=2)
SILENCE: Final = timedelta(seconds=5)
"""Without any event for this long the subscription is given up: heartbeats come each second."""
SNAPSHOT_WITHIN: Final = timedelta(seconds=10)
REFRESH: Final = timedelta(hours=1)
"""Age at which a subscription is replaced by one over a new connection: a gateway ends connections that have grown old."""

_log = logging.getLogger(__name__)


async def _sleep(span: timedelta) -> None:
    await asyncio.sleep(span.total_seconds())


class Watcher:
    """Runs for as long as the resource does. `sleep` and `clock` are given, so that tests need no real time."""

    def __init__(
        self,
        feed: TrustedFeed,
        publisher: Publisher,
        clock: Clock,
        *,
        sleep: Callable[[timedelta], Awaitable[None]] = _sleep,
    ) -> None:
        self._feed = feed
        self._publisher = publisher
        self._clock = clock
        self._sleep = sleep
        self._again = asyncio.Event()
        self._begun = asyncio.Condition()
        self._generation = 0
        self._failure = "it has not been reached yet"

    def resync(self) -> None:
        """Subscribes anew beside the live subscription, which is trusted until the new one has begun or failed."""
        self._again.set()

    async def ready(self, within: timedelta) -> None:
        """Returns once a subscription is live.

        Raises:
            GatewayUnavailableError: not within that time; says what the last attempt ended with.
        """
        try:
            async with asyncio.timeout(within.total_seconds()), self._begun:
                await self._begun.wait_for(lambda: self._feed.view.trusted)
        except TimeoutError as error:
            raise GatewayUnavailableError(f"the gateway's feed is not there: {self._failure}") from error

    async def run(self) -> None:
        """Keeps the feed alive until it is cancelled; then everything is refused."""
        live: asyncio.Task[None] | None = None
        wait = FIRST_WAIT
        try:
            while True:
                self._again.clear()
                begun = asyncio.Event()
                fresh = asyncio.create_task(self._follow(begun))
                try:
                    await _first_of(fresh, begun)
                except BaseException:
                    await _stop(fresh)
                    raise
                before, live = live, fresh
                await _stop(before)
                if begun.is_set():
                    wait = FIRST_WAIT
                    old = self._clock.call_at(self._clock.monotonic() + REFRESH, self.resync)
                    try:
                        await _first_of(fresh, self._again)
                    finally:
                        old.cancel()
                    if not fresh.done():
                        continue
                self._failure = _failure(fresh)
                self._feed.lose(self._failure)
                _log.warning("The feed is not trusted (%s); trying again in %s s", self._failure, wait.total_seconds())
                await self._sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT)
        finally:
            self._feed.lose("the verifier has been closed")
            await _stop(live)

    async def _follow(self, begun: asyncio.Event) -> None:
        events = self._publisher.watch(self._feed.audiences)
        async with contextlib.aclosing(events):
            await self._begin(events)
            self._generation += 1
            mine = self._generation
            begun.set()
            async with self._begun:
                self._begun.notify_all()
            while True:
                event = await _next(events, SILENCE)
                if self._generation != mine:  # another subscription has taken over
                    return
                authority = self._publisher.authority()
                self._feed.receive(event, authority, self._clock.now(), self._clock.monotonic())

    async def _begin(self, events: AsyncGenerator[FeedEvent, None]) -> None:
        """The snapshot is gone when this returns: it names every dead grant, and the subscription lives for an hour."""
        first = await _next(events, SNAPSHOT_WITHIN)
        self._feed.begin(first, self._publisher.authority(), self._clock.now(), self._clock.monotonic())


async def _next(events: AsyncGenerator[FeedEvent, None], within: timedelta) -> FeedEvent:
    try:
        async with asyncio.timeout(within.total_seconds()):
            return await anext(events)
    except TimeoutError as error:
        raise GatewayUnavailableError(f"the feed was silent for {within.total_seconds():g} s") from error
    except StopAsyncIteration as error:
        raise GatewayUnavailableError("the feed has ended") from error


async def _first_of(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Waits until the task is done or the event is set; neither is touched."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()


def _failure(task: asyncio.Task[None]) -> str:
    error = None if task.cancelled() else task.exception()
    if error is None:
        return "the subscription ended"
    if not isinstance(error, StepgrantError):
        _log.error("The feed failed in a way it should not", exc_info=error)
        return f"an unexpected {type(error).__name__}"
    return str(error)
