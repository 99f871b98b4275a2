"""Whether something grows."""

import random

import pytest
from trend import Trend, trend

HOURS = [number / 360 for number in range(270)]


def test_a_steady_growth_is_found_whatever_the_noise():
    noise = random.Random(7)
    found = trend(HOURS, [100 + 12 * hour + noise.gauss(0, 0.5) for hour in HOURS])
    assert found.slope == pytest.approx(12, abs=2 * found.margin)
    assert found.verdict(1) == "grows"


def test_noise_alone_is_flat():
    noise = random.Random(7)
    found = trend(HOURS, [100 + noise.gauss(0, 0.5) for _ in HOURS])
    assert found.verdict(1) == "flat"


@pytest.mark.parametrize(
    ("slope", "margin", "verdict"),
    [
        (0.1, 0.0, "flat"),  # It grows for sure, and by so little that nobody minds.
        (0.6, 0.4, "flat"),
        (-0.6, 0.4, "flat"),
        (0.8, 0.3, "grows"),  # It may be less than the bound; that it is has not been shown.
        (4.2, 0.3, "grows"),
        (-4.2, 0.3, "shrinks"),
        (0.0, 1.5, "unsure"),
        (2.0, 3.0, "unsure"),  # An interval so wide that nothing lies in it shows nothing.
    ],
)
def test_only_what_is_shown_to_stay_within_the_bound_is_flat(slope: float, margin: float, verdict: str):
    assert Trend(slope, margin).verdict(1) == verdict


def test_a_walk_without_an_aim_is_less_sure_than_independent_samples_of_the_same_spread():
    noise = random.Random(7)
    level, walk = 0.0, []
    for _ in HOURS:
        level = 0.95 * level + noise.gauss(0, 0.5)
        walk.append(level)
    shuffled = noise.sample(walk, len(walk))
    assert trend(HOURS, walk).margin > 2 * trend(HOURS, shuffled).margin


def test_what_never_changes_is_flat_and_certain():
    found = trend([0.0, 1.0, 2.0], [5.0, 5.0, 5.0])
    assert (found.slope, found.margin, found.verdict(0.001)) == (0.0, 0.0, "flat")
