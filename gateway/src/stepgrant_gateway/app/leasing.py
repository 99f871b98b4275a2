"""The lease on a task: what one stream can do with it, from its opening to the last end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from stepgrant.errors import Denial, ProtocolError, TaskClosedError
from stepgrant_gateway.app.answers import Answer
from stepgrant_gateway.app.granting import Granting
from stepgrant_gateway.app.handing import Handing
from stepgrant_gateway.app.open_tasks import MAX_LATE_REPORTS, Task
from stepgrant_gateway.app.resuming import Resuming
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.core.boundary import (
    DeclareStep,
    HandedOff,
    HandOffStep,
    Outcome,
    ReportStep,
    StepGranted,
    StepSettled,
    TaskClosed,
    TaskOpened,
)
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ports import Clock, Journal
from stepgrant_gateway.core.steps import StepInput

logger = logging.getLogger(__name__)

_IDENTITY_GONE: Final = frozenset({"identity_expired", "identity_lost"})
"""What ends the steps of an SVID also when its stream does not have the task any more."""


class TaskLease:
    """One open task, held by one stream. When the stream is gone, so is every grant, unless another has taken the task over.

    A lease whose task was taken over is void: it neither grants nor ends, but for the steps that were granted to its SVID.
    """

    def __init__(
        self, task: Task, opened: TaskOpened, *, granting: Granting, handing: Handing, endings: Endings,
        resuming: Resuming, journal: Journal, clock: Clock,
    ) -> None:  # fmt: skip
        self.opened = opened
        self._task = task
        self._peer = task.peer
        self._hold = task.holds
        self._resuming = resuming
        self._granting = granting
        self._handing = handing
        self._endings = endings
        self._journal = journal
        self._clock = clock

    def resume_token(self) -> bytes:
        """What the task is taken up with when this stream has ended, or instead of it: 32 bytes; earlier ones are void."""
        return self._resuming.issue(self._task)

    def declare(self, request: DeclareStep) -> Answer[StepGranted | Denial]:
        """The grant of a step, or why not. Decided when this returns; the answer is there once that is durable.

        Raises:
            StepExistsError: another intent was declared under this id.
            TaskClosedError: the task is over.
        """
        self._require_open()
        return self._granting.declare(self._task, request)

    def renew(self, step_id: str) -> Answer[StepGranted | Denial]:
        """A fresh grant by a fresh decision, or why not (invariant 6).

        Raises:
            ProtocolError: no such step was declared.
            TaskClosedError: the task is over.
        """
        self._require_open()
        return self._granting.renew(self._task, step_id)

    def hand_off(self, request: HandOffStep) -> Answer[HandedOff | Denial]:
        """What another workload can open a branch below a live step with, or why not. The answer is there once it is durable.

        Raises:
            ProtocolError: no such step was declared.
            TaskClosedError: the task is over.
        """
        self._require_open()
        return self._handing.hand_off(self._task, request)

    def report(self, request: ReportStep) -> StepSettled:
        """The step ends as reported; a report that comes late is recorded and changes nothing.

        Raises:
            ProtocolError: no such step was declared.
            TaskClosedError: the task is over.
        """
        self._require_open()
        step = self._task.own_step(request.step_id)
        if step is None:
            raise ProtocolError(f"step {request.step_id} was not declared in this task")
        if not step.live:
            step.late_reports += 1
            if step.late_reports > MAX_LATE_REPORTS:
                return StepSettled(request.step_id, step.state.value, late=True)
            self._journal.record_end(
                Event(
                    EventType.STEP_LATE_OUTCOME,
                    self._clock.now(),
                    {
                        **self._task.named,
                        "step": request.step_id,
                        "state": step.state.value,
                        "outcome": request.outcome.value,
                        "error_class": request.error_class,
                        "result_sha256": request.result_sha256.hex() if request.result_sha256 is not None else None,
                        "by": "agent",
                    },
                )
            )
            return StepSettled(request.step_id, step.state.value, late=True)
        if request.outcome is Outcome.COMPLETED:
            self._task.shared.reported.add(step.declared.tool)
            how, reason = StepInput.COMPLETE, ""
        else:
            how, reason = StepInput.FAIL, request.error_class
        code = request.outcome.value
        self._endings.end_step(
            self._task, step, how, code=code, reason=reason, by="agent", result=request.result_sha256
        )
        return StepSettled(request.step_id, step.state.value, late=False)

    def close(self, outcome: Outcome) -> TaskClosed:
        """The task is over by the agent's own word; steps that are live are abandoned."""
        self._require_held()
        closed = TaskClosed("closed", f"the agent closed the task as {outcome.value}.")
        self._endings.end_task(self._task, StepInput.ABANDON, code=closed.code, reason=closed.reason, by="agent")
        return closed

    def lost(self, code: str, reason: str) -> None:
        """The stream is gone, or what it rested on: every grant of it is dead at once.

        After `stream_lost` the task can be taken up again for a moment; after anything else it is over.
        """
        if not self._held:
            if code in _IDENTITY_GONE:
                self._endings.end_steps(
                    self._task, StepInput.REVOKE, code=code, reason=reason, by="gateway", of=self._peer
                )
            return
        if code != "draining" and self._task.open:
            logger.info(
                "Task %s of %s lost its stream: %s", self._task.task_id, self._task.workload, reason,
                extra={"event": code, "task": self._task.task_id, "workload": self._task.workload},
            )  # fmt: skip
        if code == "stream_lost":
            self._endings.let_linger(self._task, code=code, reason=reason)
        else:
            how = StepInput.ABANDON if code == "stream_broken" else StepInput.REVOKE
            self._endings.end_task(self._task, how, code=code, reason=reason, by="gateway")

    def when_released(self, end_watch: Callable[[], None]) -> None:
        """Has `end_watch` called once no step lives any more that was granted to the SVID of this stream."""
        watched = any(peer == self._peer for peer, _ in self._task.watched)
        if not self._held and not watched and any(step.peer == self._peer for step in self._task.live.values()):
            self._task.watched.append((self._peer, end_watch))
        else:
            end_watch()

    @property
    def _held(self) -> bool:
        """False once another stream has the task."""
        return self._task.holds == self._hold

    def _require_held(self) -> None:
        if not self._held:
            raise TaskClosedError(f"task {self._task.task_id} was taken over by another stream")

    def _require_open(self) -> None:
        self._require_held()
        if not self._task.open or self._task.lingering:
            raise TaskClosedError(f"task {self._task.task_id} is over: open another")
