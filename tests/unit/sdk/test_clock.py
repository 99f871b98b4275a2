"""The clock of a running loop."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

import pytest

from stepgrant.clock import LoopClock


async def test_a_timer_fires_once_its_time_has_come_and_not_when_cancelled():
    clock = LoopClock()
    fired = asyncio.Event()
    clock.call_at(clock.monotonic(), fired.set)
    cancelled = clock.call_at(clock.monotonic(), lambda: pytest.fail("fired"))
    cancelled.cancel()
    await asyncio.wait_for(fired.wait(), 5)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() > timedelta(0)
