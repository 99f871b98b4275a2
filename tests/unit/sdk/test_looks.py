"""A task's stream is looked at before what it came with has ended."""

from __future__ import annotations

from datetime import timedelta

from stepgrant.looks import Looks
from tests.kit.clock import START, ManualClock

HOUR = timedelta(hours=1)


def begun(subject_ends=None):
    clock, looked = ManualClock(), []
    looks = Looks(clock, lambda: looked.append(clock.now()))
    looks.begin(START + HOUR, subject_ends)
    return clock, looks, looked


def test_each_time_when_half_of_what_the_identity_has_left_is_over_until_it_ends():
    clock, _, looked = begun()
    clock.advance(timedelta(minutes=45))
    assert looked == [START + HOUR / 2, START + HOUR * 3 / 4]
    clock.advance(HOUR)
    assert len(looked) < 20


def test_once_when_half_of_the_users_token_is_over_and_that_is_remembered():
    clock, looks, looked = begun(START + HOUR / 2)
    clock.advance(timedelta(minutes=15))
    assert (looked, looks.subject_due) == ([START + HOUR / 4], True)
    looks.begin(START + 2 * HOUR, None)
    assert not looks.subject_due


def test_nothing_is_looked_at_after_the_end():
    clock, looks, looked = begun(START + HOUR / 2)
    looks.end()
    clock.advance(HOUR)
    assert looked == []
