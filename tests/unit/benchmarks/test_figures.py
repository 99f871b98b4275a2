"""What a run of the benchmarks says of its turns."""

import pytest

from benchmarks.figures import Duel, p99, quartiles


def test_a_slow_moment_of_the_machine_that_hits_both_leaves_the_ratio_as_it_is():
    duel = Duel(ours=[[2.0, 2.0, 9.0], [20.0], [2.0]], theirs=[[1.0], [10.0], [1.0]])
    assert duel.ratios == [2.0, 2.0, 2.0]
    assert duel.ratio == 2.0


def test_the_summary_is_in_microseconds_and_says_how_far_the_turns_lie_apart():
    duel = Duel(ours=[[0.001], [0.002], [0.003]], theirs=[[0.001], [0.001], [0.001]])
    summary = duel.summary()
    assert summary["ratio"] == 2.0
    assert summary["ratio_quartiles"] == [1.5, 2.5]
    assert summary["ours_us"] == {"p50": 2000, "quartiles": [1500, 2500], "p99": 3000, "max": 3000, "samples": 3}


def test_one_bad_turn_is_not_the_ratio_of_what_is_rare():
    calm = [[0.001] * 98 + [0.002] * 2] * 5
    flooded = [*calm[:4], [0.001] * 98 + [0.9] * 2]
    duel = Duel(flooded, calm, of=p99)
    assert (duel.ratio, duel.ratios[-1]) == (1.0, 450.0)


def test_turns_that_do_not_match_are_no_duel():
    with pytest.raises(ValueError, match="shorter"):
        _ = Duel(ours=[[1.0], [1.0]], theirs=[[1.0]]).ratios


def test_one_turn_is_both_of_its_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0)
