"""The messages of a scripted gateway."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from stepgrant.errors import Denial
from stepgrant.handed import HandOff
from stepgrant.testing.lives import ScriptedTask
from stepgrant.testing.script import GrantRule
from stepgrant.testing.signing import BINDINGS, Signer, unix_ms
from stepgrant.v1 import agent_pb2, types_pb2

TASK_LIFE: Final = timedelta(minutes=15)
LIMITS: Final = agent_pb2.Limits(live_steps=64, depth=8, arguments_bytes=64 * 1024, steps=10_000)


def opened(
    signer: Signer, task: ScriptedTask, tools: Mapping[str, GrantRule], resume_token: bytes
) -> agent_pb2.Opened:  # fmt: skip
    """The task, or the branch, is this stream's."""
    return agent_pb2.Opened(
        task_id=task.opened.task_id,
        instance_id=signer.instance_id,
        expires_unix_ms=unix_ms(signer.now() + TASK_LIFE),
        tools=[
            agent_pb2.ToolOffer(tool=tool, audience=rule.audience, binding=BINDINGS[rule.binding])
            for tool, rule in sorted(tools.items())
        ],
        limits=LIMITS,
        resume_token=resume_token,
        live_steps=task.live,
        branch_id=task.opened.branch_id,
    )


def handed_off(signer: Signer, made: HandOff, step_id: str) -> agent_pb2.HandedOff:
    """What the receiver of the step opens its branch with."""
    return agent_pb2.HandedOff(step_id=step_id, hand_off_id=made.id, ticket=made.ticket, decision_id=signer.new_id())


def denied(signer: Signer, denial: Denial, step_id: str) -> types_pb2.Denied:
    """No."""
    return types_pb2.Denied(
        step_id=step_id,
        decision_id=signer.new_id(),
        code=denial.code.value,
        reason=denial.reason,
        next=denial.next,
        argument=denial.argument,
        retry_after_ms=0 if denial.retry_after is None else denial.retry_after // timedelta(milliseconds=1),
    )


def reply(number: int, answer: agent_pb2.GatewayMessage) -> agent_pb2.GatewayMessage:
    """The same, as the answer to this request."""
    message = agent_pb2.GatewayMessage()
    message.CopyFrom(answer)
    message.reply_to = number
    return message
