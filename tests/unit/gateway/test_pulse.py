"""What a running gateway does each second."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.pulse import MAX_DENIED_RECORDED, DeniedCallers, Pulse, Retention
from tests.kit.clock import ManualClock


def test_it_beats_once_a_second_until_it_is_stopped():
    clock, beats = ManualClock(), []
    pulse = Pulse(clock, lambda: beats.append(clock.monotonic()))

    pulse.start()
    clock.advance(timedelta(seconds=3))
    pulse.stop()
    clock.advance(timedelta(seconds=3))

    assert beats == [timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=3)]


def test_a_beat_that_fails_stops_neither_the_others_nor_the_next():
    clock, beats = ManualClock(), []

    def failing() -> None:
        beats.append("failed")
        raise UnrecordedError("not now")

    pulse = Pulse(clock, failing, lambda: beats.append("beat"))
    pulse.start()
    clock.advance(timedelta(seconds=2))

    assert beats == ["failed", "beat"] * 2


async def test_who_is_turned_away_is_recorded_and_a_flood_is_not():
    class Journal(list):
        def record(self, event):
            self.append(event)

    journal = Journal()
    denied = DeniedCallers(journal, ManualClock())

    for _ in range(MAX_DENIED_RECORDED + 5):
        denied.record("/stepgrant.v1.Operator/SetLock", "no certificate")
    assert len(journal) == MAX_DENIED_RECORDED

    denied.refill()
    denied.record("/stepgrant.v1.Operator/SetLock", "no certificate")
    assert len(journal) == MAX_DENIED_RECORDED + 1


async def test_inputs_past_their_time_are_destroyed_once_a_day():
    class Store:
        def __init__(self) -> None:
            self.asked: list[date] = []
            self.failing = False

        def expire(self, before: date) -> int:
            self.asked.append(before)
            if self.failing:
                raise OSError("the disk is away")
            return 0

    async def beat() -> None:
        retention.beat()
        if retention._work is not None:
            await asyncio.wait([retention._work])

    clock, store = ManualClock(), Store()
    retention = Retention(store, timedelta(days=90), clock)
    await beat()
    await beat()
    clock.advance(timedelta(days=1))
    store.failing = True
    await beat()
    store.failing = False
    await beat()

    first = clock.now().date() - timedelta(days=91)
    assert store.asked == [first, first + timedelta(days=1), first + timedelta(days=1)]
