"""The step machine: one transition table. What is not in it does not happen (design 3, invariant 5)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from stepgrant_gateway.core.errors import GatewayError


class StepState(Enum):
    """Where a step is. The last six are ends."""

    DECLARED = "declared"
    GRANTED = "granted"
    DENIED = "denied"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    REVOKED = "revoked"
    ABANDONED = "abandoned"

    # Members are single: Enum's own hash is of the name, in Python, at each look into a table.
    __hash__ = object.__hash__

    @property
    def ended(self) -> bool:
        """True if nothing can happen to the step any more."""
        return self not in {StepState.DECLARED, StepState.GRANTED}


class StepInput(Enum):
    """What can happen to a step."""

    GRANT = "grant"
    DENY = "deny"
    RENEW = "renew"
    COMPLETE = "complete"
    FAIL = "fail"
    EXPIRE = "expire"
    REVOKE = "revoke"
    ABANDON = "abandon"

    __hash__ = object.__hash__  # As above.


class StepEffect(Enum):
    """What has to be done about the grant when a step moves."""

    NONE = "none"
    MINT = "mint"
    SUPERSEDE = "supersede"
    KILL = "kill"


class InvalidTransitionError(GatewayError):
    """The table has no such row: a bug of the caller. Nothing has changed."""

    code = "invalid_transition"


TRANSITIONS: Final[Mapping[tuple[StepState, StepInput], tuple[StepState, StepEffect]]] = {
    (StepState.DECLARED, StepInput.DENY): (StepState.DENIED, StepEffect.NONE),
    (StepState.DECLARED, StepInput.GRANT): (StepState.GRANTED, StepEffect.MINT),
    (StepState.GRANTED, StepInput.RENEW): (StepState.GRANTED, StepEffect.SUPERSEDE),
    (StepState.GRANTED, StepInput.COMPLETE): (StepState.COMPLETED, StepEffect.KILL),
    (StepState.GRANTED, StepInput.FAIL): (StepState.FAILED, StepEffect.KILL),
    (StepState.GRANTED, StepInput.EXPIRE): (StepState.EXPIRED, StepEffect.KILL),
    (StepState.GRANTED, StepInput.REVOKE): (StepState.REVOKED, StepEffect.KILL),
    (StepState.GRANTED, StepInput.ABANDON): (StepState.ABANDONED, StepEffect.KILL),
}


def advance(state: StepState, event: StepInput) -> tuple[StepState, StepEffect]:
    """The next state, and what is to be done about the grant.

    Raises:
        InvalidTransitionError: the table has no row for it.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransitionError(f"a step that is {state.value} cannot {event.value}") from None
