"""Refusals that do not come from policy, in the words that the agent reads."""

from __future__ import annotations

from stepgrant.errors import Denial, DenialCode
from stepgrant_gateway.app.open_tasks import Step
from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.core.steps import StepState

UNRECORDED = Refused(
    DenialCode.UNRECORDED,
    "the gateway cannot record this decision, so it does not grant.",
    "try again in a moment, as a new step.",
)
CLOCK_WENT_BACK = Refused(
    DenialCode.UNRECORDED,
    "the gateway's clock is behind its own ledger, so it does not grant.",
    "try again in a moment; the operator has to set the clock.",
)
OVERLOADED = Refused(DenialCode.OVERLOADED, "the gateway takes no new tasks now.", "try again in a moment.")
NOT_RESUMABLE = Refused(
    DenialCode.RESUME_REFUSED, "there is no task that this could take up again.", "open a new task."
)
NOT_ASSIGNED = Refused(
    DenialCode.ASSIGNMENT_REFUSED,
    "there is no assignment that this workload could open this task with.",
    "ask the dispatcher for a new one; each opens one task, with the words and in the time that it was made for.",
)
"""Whether it never was, is another's, was used, withdrawn or has expired: a stranger must not learn that it exists."""
NOT_HANDED_ON = Refused(
    DenialCode.HAND_OFF_REFUSED,
    "there is no step that was handed on to this workload, and could be worked on.",
    "ask who handed it on for a new hand-off; each opens one branch, while its step lives.",
)
"""Whether it never was, is another's, was used or is over: a stranger must not learn that it exists."""
TAKING_UP = Refused(
    DenialCode.OVERLOADED, "the task was taken up a moment ago, and that is not recorded yet.", "try again in a moment."
)
NO_SUBJECTS = Refused(
    DenialCode.SUBJECT_INVALID,
    "this gateway takes no subject tokens.",
    "open the task without one, or ask the operator for [[identity.subjects]].",
)
LOGGED_OUT = Refused(
    DenialCode.SUBJECT_INVALID,
    "the subject token is of a session that its issuer has ended.",
    "have the user log in again, and open the task with the new token.",
)
USED_UP = Refused(DenialCode.USES_EXHAUSTED, "the step's uses are used up.", "declare another step.")
PARENT_NOT_LIVE = Refused(DenialCode.PARENT_ENDED, "the parent step is not live.", "declare the parent first.")


def denial(refused: Refused, decision_id: str, step_id: str = "") -> Denial:
    """The refusal as the agent gets it."""
    return Denial(
        refused.code, refused.reason, refused.next, refused.argument, decision_id, step_id, refused.retry_after
    )


def limit(reason: str, what_next: str) -> Refused:
    """A bound of this gateway is reached."""
    return Refused(DenialCode.LIMIT_EXCEEDED, reason, what_next)


def over(step: Step) -> Denial:
    """The step has ended; nothing brings it back."""
    if step.state is StepState.GRANTED:
        return denial(limit("the step's first grant is not out yet.", "wait for its answer."), "", step.key[1])
    code = DenialCode.LOCKED if step.code == "locked" else DenialCode.STEP_ENDED
    text = f"the step is {step.state.value}: {step.reason or step.code}"
    return Denial(code, text, "declare another step.", step_id=step.key[1])
