"""Pauses grow, have a bound, are not the same for everybody, and can be cut short."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from stepgrant.pauses import FIRST, Pauses
from tests.kit.clock import ManualClock

SECOND = timedelta(seconds=1)
TICK = timedelta(milliseconds=1)


async def lengths(pauses, clock, count):
    measured = []
    for _ in range(count):
        pause = asyncio.ensure_future(pauses.next(SECOND))
        await asyncio.sleep(0)
        before = clock.monotonic()
        while not pause.done():
            clock.advance(TICK)
            await asyncio.sleep(0)
        measured.append(clock.monotonic() - before)
    return measured


async def test_a_pause_is_half_to_all_of_a_span_that_doubles_up_to_its_bound():
    clock = ManualClock()
    measured = await lengths(Pauses(clock), clock, 8)
    for number, length in enumerate(measured):
        span = min(FIRST * 2**number, SECOND)
        assert span / 2 - TICK <= length <= span + 2 * TICK


async def test_two_who_wait_do_not_wait_alike():
    clock = ManualClock()
    assert len({(await lengths(Pauses(clock), clock, 6))[-1] for _ in range(5)}) > 1


async def test_what_is_tried_anew_waits_no_longer_and_briefly_after():
    clock = ManualClock()
    pauses = Pauses(clock)
    await lengths(pauses, clock, 6)
    waiting = asyncio.ensure_future(pauses.next(SECOND))
    await asyncio.sleep(0)
    pauses.begin_anew()
    await waiting
    (length,) = await lengths(pauses, clock, 1)
    assert length <= FIRST + 2 * TICK
