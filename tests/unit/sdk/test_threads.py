"""Blocking code waits for a loop that another thread drives, and never for its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stepgrant.errors import MisuseError
from stepgrant.threads import wait_for
from tests.kit.loop import interrupted


async def answer():
    return 42


async def test_another_thread_gets_the_result():
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(wait_for, loop, answer()) == 42


async def test_the_loops_own_thread_is_told_what_to_do():
    with pytest.raises(MisuseError, match=r"asyncio\.to_thread"):
        wait_for(asyncio.get_running_loop(), answer())


async def test_an_interrupted_wait_cancels_the_work(monkeypatch):
    loop, cancelled = asyncio.get_running_loop(), asyncio.Event()

    class Interrupted:
        def __init__(self, future):
            self._future = future

        def result(self):
            raise KeyboardInterrupt

        def cancel(self):
            self._future.cancel()

    async def work():
        try:
            await interrupted()
        finally:
            cancelled.set()

    def run():
        real = asyncio.run_coroutine_threadsafe
        started = threading.Event()

        def interrupted(coroutine, on):
            future = real(coroutine, on)
            on.call_soon_threadsafe(started.set)
            started.wait(5)
            return Interrupted(future)

        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wait_for(loop, work())

    await asyncio.to_thread(run)
    await asyncio.wait_for(cancelled.wait(), 5)
