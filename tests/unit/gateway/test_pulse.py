"""What a running gateway does each second."""

from __future__ import annotations

from datetime import timedelta

from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.pulse import MAX_DENIED_RECORDED, DeniedCallers, Pulse
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
