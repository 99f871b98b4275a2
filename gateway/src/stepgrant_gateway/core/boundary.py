"""What crosses the gateway's boundaries: requests of agents and resources, and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from stepgrant.errors import Denial
from stepgrant.grant import Binding, Tier
from stepgrant.intent import Json
from stepgrant_gateway.core.delegation import Envelope


class Outcome(Enum):
    """How the agent, or the resource, says that something came out."""

    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class OpenTask:
    """Asks to open a task, or to take one up. `instance_jkt`: RFC 7638 thumbprint (32 bytes) of the proven instance key;
    `resume_token`: 32 bytes, or none for a new task; `subject_token`: not verified yet, or empty for none;
    `assignment`, `hand_off`: the ticket of one, 32 bytes, or none. At most one of the three is there.
    """

    task_type: str
    parameters: Mapping[str, Json]
    purpose: str
    instance_jkt: bytes
    resume_token: bytes = field(default=b"", repr=False)
    subject_token: str = field(default="", repr=False)
    assignment: bytes = field(default=b"", repr=False)
    hand_off: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class AssignTask:
    """Asks to let `workload` (a SPIFFE ID) open one task until `until`. `ticket`: 32 random bytes of the dispatcher."""

    ticket: bytes = field(repr=False)
    workload: str
    task_type: str
    parameters: Mapping[str, Json]
    purpose: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Assigned:
    """The assignment, durable before this value exists. `state`: `open`, `taken` or `withdrawn`."""

    assignment_id: str
    state: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The assignment opens nothing any more. `ended_task_id` empty = none was open. `durable` False: not yet recorded."""

    ended_task_id: str
    durable: bool


@dataclass(frozen=True, slots=True)
class DeclareStep:
    """Asks for the grant of one step. `wanted_ttl` None = what policy gives."""

    step_id: str
    parent_step_id: str | None
    tool: str
    arguments: Mapping[str, Json]
    purpose: str
    wanted_ttl: timedelta | None
    envelope: Envelope | None


@dataclass(frozen=True, slots=True)
class HandOffStep:
    """Asks to let `workload` (a SPIFFE ID) open a branch of the task below a live step, within `envelope`."""

    step_id: str
    workload: str
    envelope: Envelope
    purpose: str


@dataclass(frozen=True, slots=True)
class HandedOff:
    """The step is handed on, durable before this value exists. `ticket`: 32 random bytes, what the branch is opened with."""

    step_id: str
    hand_off_id: str
    ticket: bytes = field(repr=False)
    decision_id: str


@dataclass(frozen=True, slots=True)
class ReportStep:
    """Says how a step came out. `result_sha256`: 32 bytes or None."""

    step_id: str
    outcome: Outcome
    result_sha256: bytes | None
    error_class: str


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that a task type could be permitted."""

    tool: str
    audience: str
    binding: Binding


@dataclass(frozen=True, slots=True)
class TaskOpened:
    """The task is open; it ends at `expires_at` at the latest. `live_steps`: those that a take-over moved.

    `branch_id`: the branch of the task that was opened, or empty.
    """

    task_id: str
    expires_at: datetime
    tools: tuple[ToolOffer, ...]
    live_steps: tuple[str, ...] = ()
    branch_id: str = ""


@dataclass(frozen=True, slots=True)
class Audienced:
    """Where a grant may be shown, and how its holder proves possession there."""

    id: str
    binding: Binding


@dataclass(frozen=True, slots=True)
class StepGranted:
    """The grant of a step, durable before this value exists. `uses` None = not limited."""

    step_id: str
    decision_id: str
    token: str
    grant_id: str
    expires_at: datetime
    step_expires_at: datetime
    uses: int | None
    tier: Tier
    audience: Audienced
    target: str
    at: datetime
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepSettled:
    """The step is over. `late`: it had ended before the report came."""

    step_id: str
    state: str
    late: bool


@dataclass(frozen=True, slots=True)
class StepEnded:
    """Pushed: the step ended against the agent's will. `state`: `expired` or `revoked`."""

    step_id: str
    state: str
    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class TaskClosed:
    """Pushed, or the answer to a close: the task is over."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Redeemed:
    """The answer to a redemption. `code` is empty when accepted."""

    accepted: bool
    remaining_uses: int
    code: str = ""
    reason: str = ""


Answer = StepGranted | Denial
Pushed = StepEnded | TaskClosed
