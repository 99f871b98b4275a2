"""Inputs are kept for as long as was configured, and not a day longer."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

from stepgrant_gateway.app.retention import CHECK, Retention
from tests.kit.clock import START, ManualClock


class Asked:
    """An `InputStore` that notes what it is asked to destroy."""

    def __init__(self) -> None:
        self.before: list[date] = []
        self.fails = False

    def input_of(self, instance_id: str, sequence: int) -> None:
        raise AssertionError

    def expire(self, before: date) -> int:
        self.before.append(before)
        if self.fails:
            raise OSError("no")
        return 1


async def test_what_is_due_is_destroyed_at_the_start_and_then_day_by_day():
    store, clock = Asked(), ManualClock()
    retention = Retention(store, clock, timedelta(days=30))
    await retention.start()
    clock.advance(timedelta(days=1))
    assert retention._running is not None
    await asyncio.wait_for(retention._running, 5)
    assert store.before[0] == (START - timedelta(days=30)).date()
    assert store.before[-1] == (START - timedelta(days=29)).date()
    retention.stop()
    count = len(store.before)
    clock.advance(timedelta(days=1))
    assert len(store.before) == count


async def test_the_key_of_the_day_is_never_due():
    store = Asked()
    retention = Retention(store, ManualClock(), timedelta(days=-5))
    await retention.start()
    assert store.before == [START.date()]
    retention.stop()


async def test_a_store_that_fails_is_asked_again_at_the_next_check():
    store, clock = Asked(), ManualClock()
    store.fails = True
    retention = Retention(store, clock, timedelta(days=1))
    await retention.start()
    clock.advance(CHECK)
    assert retention._running is not None
    await asyncio.wait_for(retention._running, 5)
    assert len(store.before) == 2
    retention.stop()
