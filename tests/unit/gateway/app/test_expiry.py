"""Deadlines on one timer."""

from datetime import timedelta

from stepgrant_gateway.app.expiry import Deadlines
from tests.kit.clock import ManualClock


def test_what_is_due_happens_in_order_and_what_was_cancelled_does_not() -> None:
    clock, happened = ManualClock(), []
    deadlines = Deadlines(clock)
    for seconds in (3, 1, 2):
        deadlines.at(clock.now() + timedelta(seconds=seconds), lambda seconds=seconds: happened.append(seconds))
    deadlines.at(clock.now() + timedelta(seconds=2), lambda: happened.append(0)).cancel()
    clock.advance(timedelta(seconds=5))
    assert happened == [1, 2, 3]


def test_a_deadline_is_kept_however_the_wall_clock_is_set() -> None:
    """INV-04: time that passes ends grants, not what a clock says."""
    clock, happened = ManualClock(), []
    Deadlines(clock).at(clock.now() + timedelta(seconds=5), lambda: happened.append("due"))
    clock.set_wall(clock.now() - timedelta(days=1))
    clock.advance(timedelta(seconds=5))
    assert happened == ["due"]


def test_one_that_fails_does_not_keep_the_others_from_happening() -> None:
    """INV-04: a grant expires whatever goes wrong with another."""
    clock, happened = ManualClock(), []
    deadlines = Deadlines(clock)

    def fail() -> None:
        raise RuntimeError("a bug")

    deadlines.at(clock.now() + timedelta(seconds=1), fail)
    deadlines.at(clock.now() + timedelta(seconds=1), lambda: happened.append("first"))
    deadlines.at(clock.now() + timedelta(seconds=2), lambda: happened.append("second"))
    clock.advance(timedelta(seconds=3))
    assert happened == ["first", "second"]
