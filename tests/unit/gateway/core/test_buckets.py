"""Token buckets: exact for ever, and no more of them than there is room for."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant_gateway.core.buckets import Buckets, Rate, TokenBucket

START = timedelta(days=3)
MICROSECOND = timedelta(microseconds=1)
THREE = Rate(per_second=3, burst=5)


def drained(rate: Rate, now: timedelta) -> TokenBucket:
    bucket = TokenBucket.full(rate, now)
    for _ in range(rate.burst):
        bucket, wait = bucket.take(now)
        assert wait is None
    return bucket


def test_a_burst_is_let_through_and_then_nothing():
    bucket, wait = drained(THREE, START).take(START)

    assert wait == timedelta(microseconds=333_334)
    assert bucket == drained(THREE, START)


def test_who_comes_back_when_told_is_let_through_and_not_a_microsecond_earlier():
    _, wait = drained(THREE, START).take(START)

    assert drained(THREE, START).take(START + wait - MICROSECOND)[1] == MICROSECOND
    assert drained(THREE, START).take(START + wait)[1] is None


def test_a_rate_that_divides_no_microsecond_does_not_drift_in_a_million_seconds():
    bucket = drained(THREE, START)
    later = bucket.at + timedelta(seconds=1)
    taken = 0
    for step in range(1, 30_001):
        bucket, wait = bucket.take(START + step * timedelta(milliseconds=100))
        taken += wait is None
    assert (taken, later > START) == (9_000, True)


def test_a_long_pause_brings_no_more_than_a_burst():
    bucket = drained(THREE, START)
    now = START + timedelta(days=365)
    assert bucket.is_full(now)
    for _ in range(THREE.burst):
        bucket, wait = bucket.take(now)
        assert wait is None
    assert bucket.take(now)[1] is not None


def test_a_time_before_the_last_one_adds_nothing():
    bucket = drained(THREE, START)

    assert bucket.take(START - timedelta(hours=1))[0] == bucket


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (-1, 1)])
def test_a_rate_that_lets_nobody_through_is_refused(wrong):
    with pytest.raises(ValueError, match="nobody"):
        Rate(*wrong)


def test_another_rate_gives_as_many_seconds_at_once():
    assert THREE.at(6) == Rate(6, 10)
    assert Rate(1000, 10).at(1) == Rate(1, 1)


@given(
    rate=st.builds(Rate, st.integers(1, 5_000), st.integers(1, 50)),
    steps=st.lists(st.integers(0, 2_000_000), max_size=200),
)
def test_in_any_span_no_more_gets_through_than_the_burst_and_the_rate_give(rate, steps):
    bucket, now, taken = TokenBucket.full(rate, START), START, 0
    for step in steps:
        now += step * MICROSECOND
        bucket, wait = bucket.take(now)
        taken += wait is None
        assert taken <= rate.burst + (now - START) // MICROSECOND * rate.per_second / 1_000_000


def test_keys_do_not_take_from_one_another():
    buckets = Buckets(THREE, most=10)
    while buckets.take("noisy", START) is None:
        pass

    assert [buckets.take("quiet", START) for _ in range(THREE.burst)] == [None] * THREE.burst


def test_keys_beyond_the_room_share_one_bucket_and_memory_has_an_end():
    """INV-11: a caller for whom there is no room is bounded like any other."""
    buckets = Buckets(THREE, most=2)
    assert buckets.take("a", START) is None
    assert buckets.take("b", START) is None

    answers = [buckets.take(f"late{number}", START) for number in range(100)]

    assert len(buckets) == 2
    assert answers.count(None) == THREE.burst


def test_a_key_that_has_been_still_until_its_bucket_was_full_gives_its_place_up():
    buckets = Buckets(THREE, most=2)
    for key in ("a", "b", "a"):
        buckets.take(key, START)
    now = START + timedelta(milliseconds=500)

    for _ in range(THREE.burst + 1):
        wait = buckets.take("c", now)

    assert wait is not None
    assert buckets.take("d", now + timedelta(milliseconds=100)) is not None or len(buckets) == 2
    assert buckets.take("b", now) is None
