"""Durations have one form and an upper bound."""

from datetime import timedelta

import pytest

from stepgrant_gateway.policy.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("1s", timedelta(seconds=1)),
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("366d", timedelta(days=366)),
    ],
)
def test_a_whole_number_and_a_unit_are_a_duration(text, span):
    assert parse_duration(text) == span


@pytest.mark.parametrize(
    "text", ["", "0s", "01s", "-1s", "1", "s", "1 s", "1.5h", "1S", "1h30m", "1s\n", "１s", "367d", "9999999999s"]
)
def test_anything_else_is_none(text):
    assert parse_duration(text) is None
