"""The lease on a task: what one stream can do with it, from its opening to the last end."""

from __future__ import annotations

from stepgrant.errors import Denial, ProtocolError, TaskClosedError
from stepgrant_gateway.app.granting import Granting
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import MAX_LATE_REPORTS, Task
from stepgrant_gateway.core.boundary import (
    DeclareStep,
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


class TaskLease:
    """One open task, held by one stream. When the stream is gone, so is every grant."""

    def __init__(
        self, task: Task, opened: TaskOpened, *, granting: Granting, endings: Endings, journal: Journal, clock: Clock
    ) -> None:
        self.opened = opened
        self._task = task
        self._granting = granting
        self._endings = endings
        self._journal = journal
        self._clock = clock

    async def declare(self, request: DeclareStep) -> StepGranted | Denial:
        """The grant of a step, or why not.

        Raises:
            StepExistsError: another intent was declared under this id.
            TaskClosedError: the task is over.
        """
        self._require_open()
        return await self._granting.declare(self._task, request)

    async def renew(self, step_id: str) -> StepGranted | Denial:
        """A fresh grant by a fresh decision, or why not (invariant 6).

        Raises:
            ProtocolError: no such step was declared.
            TaskClosedError: the task is over.
        """
        self._require_open()
        return await self._granting.renew(self._task, step_id)

    async def report(self, request: ReportStep) -> StepSettled:
        """The step ends as reported; a report that comes late is recorded and changes nothing.

        Raises:
            ProtocolError: no such step was declared.
            TaskClosedError: the task is over.
        """
        self._require_open()
        step = self._task.steps.get(request.step_id)
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
                        "task": self._task.task_id,
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
            self._task.reported.add(step.declared.tool)
            how, reason = StepInput.COMPLETE, ""
        else:
            how, reason = StepInput.FAIL, request.error_class
        code = request.outcome.value
        self._endings.end_step(
            self._task, step, how, code=code, reason=reason, by="agent", result=request.result_sha256
        )
        return StepSettled(request.step_id, step.state.value, late=False)

    async def close(self, outcome: Outcome) -> TaskClosed:
        """The task is over by the agent's own word; steps that are live are abandoned."""
        closed = TaskClosed("closed", f"the agent closed the task as {outcome.value}.")
        self._endings.end_task(self._task, StepInput.ABANDON, code=closed.code, reason=closed.reason, by="agent")
        return closed

    def lost(self, code: str, reason: str) -> None:
        """The stream is gone, or what it rested on: everything ends at once."""
        how = StepInput.ABANDON if code == "stream_lost" else StepInput.REVOKE
        self._endings.end_task(self._task, how, code=code, reason=reason, by="gateway")

    def _require_open(self) -> None:
        if not self._task.open:
            raise TaskClosedError(f"task {self._task.task_id} is over: open another")
