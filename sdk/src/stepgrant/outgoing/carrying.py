"""Which step a call to a resource is part of: the current one if the grant is for this audience, or a new one."""

from __future__ import annotations

from stepgrant.calls import Call
from stepgrant.errors import MisuseError
from stepgrant.step import CURRENT_STEP, Step
from stepgrant.tasks import CURRENT_TASK


def carrying_step(audience: str, tool: str | None) -> Step | None:
    """The current step, if the call may carry its grant: same audience, and same tool as far as that is known.

    Raises:
        Revoked: the current step has ended; the call must not be made.
    """
    step = CURRENT_STEP.get()
    if step is None or step.grant.audience != audience:
        return None
    return step if tool in {None, step.tool} else None


def step_for(call: Call) -> Step | None:
    """A new step for this very call, a child of the current one; None when no task is open here."""
    task = CURRENT_TASK.get()
    return None if task is None else task.step(call.tool, call.arguments, parent=CURRENT_STEP.get())


def refuse_other_audience(step: Step, audience: str) -> None:
    """Raises when the grant that was given for a call is not for where the call goes."""
    if step.grant.audience != audience:
        raise MisuseError(
            f"the gateway grants {step.tool} for {step.grant.audience}, and this goes to {audience}: "
            "call it where the catalog says that it is"
        )
