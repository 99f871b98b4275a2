"""What an operator sees of tasks and steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TaskView:
    """One open task, or branch of one. `dispatcher` empty = nobody assigned it; `subject` is `issuer#sub`, or empty.

    `branch_id` empty = the task itself; `chain`: the workloads from the one that opened the task to this one.
    """

    task_id: str
    task_type: str
    workload: str
    opened_at: datetime
    expires_at: datetime
    live_steps: int
    steps: int
    labels: tuple[str, ...]
    vouched_by: str
    dispatcher: str
    subject: str = ""
    branch_id: str = ""
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepView:
    """One step. `expires_at` None = no live grant; `reason` says why it ended or was refused."""

    step_id: str
    tool: str
    target: str
    state: str
    reason: str
    declared_at: datetime
    expires_at: datetime | None
    parent_step_id: str | None
