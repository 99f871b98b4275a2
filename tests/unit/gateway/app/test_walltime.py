"""A wall clock that is set back is told from one that is slewed, jumps ahead, or stands still while the machine sleeps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepgrant_gateway.app.walltime import SET_BACK, WallTime
from tests.kit.clock import ManualClock

HOUR = timedelta(hours=1)
MOMENT = timedelta(milliseconds=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_clock_that_goes_on_was_not_set_back(clock: ManualClock) -> None:
    wall = WallTime(clock)
    clock.advance(HOUR)
    assert not wall.set_back()


@pytest.mark.parametrize("by", [SET_BACK + MOMENT, HOUR])
def test_it_says_by_how_much_until_it_is_settled(clock: ManualClock, by: timedelta) -> None:
    wall = WallTime(clock)
    clock.set_wall(clock.now() - by)
    assert wall.set_back() == wall.set_back() == by
    wall.settle()
    assert not wall.set_back()


def test_what_verifiers_put_up_with_was_not_set_back_but_adds_up(clock: ManualClock) -> None:
    wall = WallTime(clock)
    clock.set_wall(clock.now() - SET_BACK)
    assert not wall.set_back()
    clock.set_wall(clock.now() - SET_BACK)
    assert wall.set_back() == 2 * SET_BACK


def test_it_is_held_against_the_furthest_that_it_has_been(clock: ManualClock) -> None:
    """Ahead for a while and then set right: that is the case it is for."""
    wall = WallTime(clock)
    clock.set_wall(clock.now() + HOUR)
    assert not wall.set_back()
    clock.set_wall(clock.now() - HOUR)
    assert wall.set_back() == HOUR


def test_a_clock_that_is_slewed_for_a_week_was_not_set_back(clock: ManualClock) -> None:
    wall = WallTime(clock)
    for _ in range(7 * 24):
        clock.advance(HOUR)
        clock.set_wall(clock.now() - HOUR * 0.0005)
        assert not wall.set_back()
