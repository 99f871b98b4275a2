"""What the gateway says on a task's stream, as values (design 3). Times are aware UTC by the gateway's clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from stepgrant.errors import Denial
from stepgrant.grant import Binding, Tier


@dataclass(frozen=True, slots=True)
class Challenge:
    """What `Open` has to be signed over. `nonce`: 32 bytes."""

    nonce: bytes = field(repr=False)
    gateway_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that this task type could be permitted, and how its resource wants the grant held."""

    tool: str
    audience: str
    binding: Binding


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gateway holds this stream to: steps live at once, depth of nesting, bytes of arguments, steps in all."""

    live_steps: int
    depth: int
    arguments_bytes: int
    steps: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The task is open, until `expires_at` at the latest.

    `resume_token` (32 bytes) takes it up again, once; `live_steps` are those that a take-over moved. `branch_id`: the branch
    of the task that the stream works on; empty = the task itself.
    """

    task_id: str
    instance_id: str
    expires_at: datetime
    tools: tuple[ToolOffer, ...]
    limits: Limits
    resume_token: bytes = field(repr=False)
    live_steps: frozenset[str]
    branch_id: str = ""

    @property
    def afterwards(self) -> str:
        """What to do when it is over against the agent's will: a hand-off opens one branch, and no other one."""
        return (
            "the branch is over, have the step handed on anew" if self.branch_id else "the task is over, open it again"
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """The grant of one step. The token is kept out of `repr`; show it to `audience` and to nobody else.

    `at` is the gateway's clock at the answer, so `expires_at - at` is the life that was left when it was given.
    `uses` None = not limited within the lifetime.
    """

    step_id: str
    decision_id: str
    grant_id: str
    token: str = field(repr=False)
    audience: str
    binding: Binding
    target: str
    tier: Tier
    uses: int | None
    at: datetime
    expires_at: datetime
    step_expires_at: datetime
    policies: tuple[str, ...]

    @property
    def life(self) -> timedelta:
        """Life that was left when the grant was given, by the gateway's own clock."""
        return self.expires_at - self.at


@dataclass(frozen=True, slots=True)
class HandedOff:
    """The step is handed on, for as long as it lives. `ticket`: 32 bytes, what the receiver opens its branch with, once."""

    step_id: str
    hand_off_id: str
    ticket: bytes = field(repr=False)
    decision_id: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The step is over. `late`: it had ended before the report came."""

    step_id: str
    state: str
    late: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """Pushed: the step ended against the agent's will. `state`: `expired`, `revoked`, or `abandoned` (stream gone)."""

    step_id: str
    state: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The task is over: the answer to a close, or pushed."""

    code: str
    reason: str


Answer: TypeAlias = Challenge | Opened | Grant | Denial | HandedOff | Settled | Ended | Closed
