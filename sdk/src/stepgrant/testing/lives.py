"""Tasks of a scripted gateway, which outlive the streams that they are on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from stepgrant._wire import RESUME_TOKEN_BYTES
from stepgrant.errors import Denial, DenialCode
from stepgrant.testing.script import DeclaredStep, OpenedTask
from stepgrant.v1 import agent_pb2

if TYPE_CHECKING:
    from stepgrant.testing.stream import ScriptedStream

LINGER: Final = timedelta(seconds=5)
"""How long a task whose stream was lost can be taken up again."""
NOT_RESUMABLE: Final = Denial(
    DenialCode.RESUME_REFUSED, "There is no task that this could take up again.", "Open a new task."
)


@dataclass(slots=True)
class ScriptedStep:
    """A step, and the certificate (SHA-256) of the stream that declared it: its grants stay bound to that one."""

    declared: DeclaredStep
    digest: bytes
    answer: agent_pb2.GatewayMessage
    state: str
    leaf_sha256: bytes


@dataclass(slots=True, eq=False)
class ScriptedTask:
    """A task and the stream that has it; None and `lost_at` when it was lost, `over` when it can never be taken up.

    `below`: the step of another workload that it is a branch below, or empty.
    """

    opened: OpenedTask
    stream: ScriptedStream | None
    steps: dict[str, ScriptedStep] = field(default_factory=dict)
    token_sha256: bytes = b""
    lost_at: datetime | None = None
    over: bool = False
    below: str = ""

    @property
    def live(self) -> list[str]:
        """Ids of the steps that are live."""
        return [step_id for step_id, step in self.steps.items() if step.state == "granted"]

    def lose(self, now: datetime) -> None:
        """The stream is gone, and every step of it has ended."""
        for step_id in self.live:
            self.steps[step_id].state = "abandoned"
        self.stream, self.lost_at = None, now


class Lives:
    """Who may take up which task: whoever has its latest token, and is who opened it, with the same words."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, ScriptedTask] = {}

    def issue(self, task: ScriptedTask) -> bytes:
        """A fresh resume token; earlier ones are void."""
        token = os.urandom(RESUME_TOKEN_BYTES)
        self._tasks.pop(task.token_sha256, None)
        task.token_sha256 = hashlib.sha256(token).digest()
        self._tasks[task.token_sha256] = task
        return token

    def find(self, token: bytes, asked: OpenedTask, now: datetime) -> ScriptedTask | None:
        """The task that may be taken up so; None for whatever reason."""
        task = self._tasks.get(hashlib.sha256(token).digest())
        if task is None or task.over or (task.lost_at is not None and now - task.lost_at >= LINGER):
            return None
        before = task.opened
        same = (before.workload, before.instance_jkt, before.task_type, before.parameters) == (
            asked.workload, asked.instance_jkt, asked.task_type, asked.parameters,
        )  # fmt: skip
        return task if same else None

    def branches(self, step_id: str) -> list[ScriptedTask]:
        """Branches below this step that are not over."""
        return [task for task in self._tasks.values() if task.below == step_id and not task.over]

    def use(self, task: ScriptedTask) -> None:
        """The token is used."""
        self._tasks.pop(task.token_sha256, None)
