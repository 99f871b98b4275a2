"""Deadlines on one timer."""

from datetime import timedelta
from functools import partial

import pytest

from stepgrant_gateway.app.expiry import AT_ONCE, TIDY_AT, TRIES, TRY_AGAIN, Deadlines
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


def test_ds_10_one_that_fails_does_not_keep_the_others_from_happening() -> None:
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


def test_ds_10_what_fails_is_tried_a_few_times_and_then_let_be() -> None:
    clock, tried = ManualClock(), []
    deadlines = Deadlines(clock)

    def fail() -> None:
        tried.append(clock.monotonic())
        raise RuntimeError("a bug")

    deadlines.at(clock.now(), fail)
    clock.advance(TRY_AGAIN * TRIES * 2)

    assert tried == [TRY_AGAIN * number for number in range(TRIES)]


def test_ds_10_what_succeeds_at_the_second_try_has_happened_once() -> None:
    clock, tried = ManualClock(), []
    deadlines = Deadlines(clock)

    def fail_once() -> None:
        tried.append(clock.monotonic())
        if len(tried) == 1:
            raise RuntimeError("a passing failure")

    deadlines.at(clock.now(), fail_once)
    clock.advance(TRY_AGAIN * TRIES)

    assert len(tried) == 2


def test_ds_09_what_is_cancelled_takes_no_memory_for_long_however_late_it_would_be_due() -> None:
    clock, happened = ManualClock(), []
    deadlines = Deadlines(clock)
    for number in range(100 * TIDY_AT):
        late = deadlines.at(clock.now() + timedelta(hours=1), partial(happened.append, -1))
        if number % TIDY_AT == 0:
            deadlines.at(clock.now() + timedelta(seconds=number), partial(happened.append, number))
        late.cancel()
        assert len(deadlines) <= TIDY_AT
    clock.advance(timedelta(seconds=100 * TIDY_AT))

    assert happened == list(range(0, 100 * TIDY_AT, TIDY_AT))


def test_ds_06_what_is_due_at_one_instant_lets_the_others_have_their_turn() -> None:
    """INV-05: all of it happens at its time all the same."""
    clock, happened = ManualClock(), []
    deadlines = Deadlines(clock)
    for number in range(3 * AT_ONCE):
        deadlines.at(clock.now() + timedelta(seconds=1), partial(happened.append, number))
    clock.call_at(timedelta(seconds=1), lambda: happened.append("other"))
    clock.advance(timedelta(seconds=1))

    assert happened.index("other") == AT_ONCE
    assert [one for one in happened if one != "other"] == list(range(3 * AT_ONCE))


@pytest.mark.slow
def test_ds_06_a_hundred_thousand_that_are_due_together_all_happen_and_leave_nothing() -> None:
    clock, happened = ManualClock(), []
    deadlines = Deadlines(clock)
    for number in range(100_000):
        deadlines.at(clock.now() + timedelta(seconds=1), partial(happened.append, number))
    clock.advance(timedelta(seconds=1))

    assert len(happened) == 100_000
    assert not len(deadlines)
