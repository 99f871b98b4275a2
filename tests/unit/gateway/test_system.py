"""The real clock and the real random source."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

from stepgrant_gateway.system import SystemClock, system_entropy


async def test_a_call_happens_when_its_time_has_come_and_not_before():
    clock, called = SystemClock(), asyncio.Event()
    due = clock.monotonic() + timedelta(milliseconds=20)

    clock.call_at(due, called.set)
    await asyncio.wait_for(called.wait(), 5)

    assert clock.monotonic() >= due - timedelta(milliseconds=2)


async def test_a_call_that_is_cancelled_does_not_happen():
    clock, called = SystemClock(), []
    last = asyncio.Event()

    clock.call_at(clock.monotonic(), lambda: called.append(1)).cancel()
    clock.call_at(clock.monotonic(), last.set)
    await asyncio.wait_for(last.wait(), 5)

    assert called == []


def test_the_wall_clock_is_aware_and_in_utc():
    assert SystemClock().now().tzinfo is UTC


def test_entropy_has_the_length_asked_for_and_differs():
    assert len(system_entropy(32)) == 32
    assert system_entropy(32) != system_entropy(32)
