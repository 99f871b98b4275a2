"""Hand-offs of a scripted gateway: what stands in their way whatever the test wrote, and what it is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stepgrant.envelope import Form
from stepgrant.errors import Denial, DenialCode, ProtocolError
from stepgrant.grant import MAX_CHAIN
from stepgrant.handed import HandOff
from stepgrant.intent import Json, parse_value
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.testing.lives import ScriptedStep, ScriptedTask
from stepgrant.testing.script import HandedOnStep, Script
from stepgrant.v1 import agent_pb2, types_pb2

STEP_ENDED: Final = Denial(DenialCode.STEP_ENDED, "The step is over.", "Declare a new step.")


def hand_on(script: Script, task: ScriptedTask, step: ScriptedStep, message: agent_pb2.HandOff) -> HandOff | Denial:
    """What the step is handed on with, or why it is not; raises ProtocolError for what no gateway listens to."""
    parse_spiffe_id(message.workload, what="HandOff.workload")
    if not message.envelope.tools:
        raise ProtocolError("a step is handed on within an envelope")
    opened = task.opened
    script.handed_on.append(
        HandedOnStep(
            opened.task_id,
            message.step_id,
            step.declared.tool,
            message.workload,
            {entry.tool: _bounds(entry) for entry in message.envelope.tools},
            message.purpose,
        )
    )
    chain = (*opened.came_through, opened.workload)
    if step.state != "granted":
        return STEP_ENDED
    if message.workload in chain:
        reason = f"{message.workload} has part in this task already, further up."
        return Denial(DenialCode.LIMIT_EXCEEDED, reason, "Hand on to another workload.")
    if len(chain) >= MAX_CHAIN:
        reason = f"A step is handed on over at most {MAX_CHAIN} workloads."
        return Denial(DenialCode.LIMIT_EXCEEDED, reason, "Let this workload do the step.")
    return script.for_hand_off(step.declared.tool) or script.offer(opened, message)


def _bounds(entry: types_pb2.EnvelopeTool) -> Mapping[str, Json]:
    return {one.argument: _bound(one) for one in entry.arguments}


def _bound(constraint: types_pb2.ArgumentConstraint) -> Json:
    kind = constraint.WhichOneof("kind") or ""
    if kind == "any":
        return Form.ANY.value
    text = getattr(constraint, kind)
    form = Form(kind.removesuffix("_json"))
    return {form.value: text if form is Form.PREFIX else parse_value(text)}
