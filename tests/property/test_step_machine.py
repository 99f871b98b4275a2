"""INV-05: a step ends once, never revives, and no path grants it twice."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant_gateway.core.steps import TRANSITIONS, InvalidTransitionError, StepEffect, StepInput, StepState, advance

inputs = st.lists(st.sampled_from(StepInput), max_size=30)


def run(events: list[StepInput]) -> list[tuple[StepState, StepInput, StepState, StepEffect]]:
    """The moves that the table allows, in order; what it does not allow changes nothing."""
    state, moves = StepState.DECLARED, []
    for event in events:
        try:
            after, effect = advance(state, event)
        except InvalidTransitionError:
            continue
        moves.append((state, event, after, effect))
        state = after
    return moves


@given(inputs)
def test_no_path_mints_a_first_grant_twice(events: list[StepInput]) -> None:
    assert sum(effect is StepEffect.MINT for *_, effect in run(events)) <= 1


@given(inputs)
def test_an_ended_step_never_moves_again(events: list[StepInput]) -> None:
    moves = run(events)
    assert all(not before.ended for before, *_ in moves)
    assert sum(after.ended for _, _, after, _ in moves) <= 1


@given(inputs)
def test_a_grant_is_killed_exactly_when_a_granted_step_ends(events: list[StepInput]) -> None:
    for before, _, after, effect in run(events):
        assert (effect is StepEffect.KILL) == (before is StepState.GRANTED and after.ended)


def test_sm_01_every_pair_outside_the_table_is_refused_and_the_table_moves_no_end() -> None:
    for state, event in itertools.product(StepState, StepInput):
        if (state, event) in TRANSITIONS:
            assert not state.ended
        else:
            with pytest.raises(InvalidTransitionError, match=state.value):
                advance(state, event)
