"""How long an SVID is still good, and when its successor is late."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant_gateway.cli.checks import State, bundle_life, life, span
from tests.kit.ca import TestAuthority
from tests.kit.clock import START

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(days=2, hours=3, minutes=4), "2 d 3 h"),
        (timedelta(hours=1, seconds=59), "1 h 0 min"),
        (timedelta(minutes=59, seconds=59), "59 min 59 s"),
        (timedelta(seconds=1.9), "1 s"),
        (-HOUR, "0 s"),
    ],
)
def test_a_span_is_said_in_its_two_largest_units(length, said):
    assert span(length) == said


def test_an_svid_whose_successor_is_late_is_a_warning():
    early = life("SVID", "me", START, START + HOUR, START + HOUR * 0.8)
    late = life("SVID", "me", START, START + HOUR, START + HOUR * 0.81)

    assert (early.state, late.state) == (State.OK, State.WARNING)
    assert "11 min 24 s" in late.says
    assert late.todo


def test_a_bundle_says_how_long_its_last_authority_is_good():
    """Authorities overlap: only when the last of them ends is nobody trusted any more."""
    ends = (START + HOUR, START + HOUR * 5)
    (short,), (long,) = (TestAuthority(root_not_after=end).bundle().authorities for end in ends)
    bundles = BundleSet((X509Bundle("acme.org", (short, long)),))

    def state(after):
        return [(check.state, check.name) for check in bundle_life(bundles, START + after)]

    name = "bundle"
    assert state(HOUR * 2) == [(State.OK, name)]
    assert state(HOUR * 5 - timedelta(minutes=5)) == [(State.WARNING, name)]
    assert state(HOUR * 6) == [(State.FAILED, name)]
    nobody = bundle_life(BundleSet((X509Bundle("acme.org", ()),)), START)
    assert [check.state for check in nobody] == [State.FAILED]
