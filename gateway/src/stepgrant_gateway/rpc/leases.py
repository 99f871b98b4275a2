"""What a stream needs of the application: who opens tasks, and the lease on one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from stepgrant.errors import Denial
from stepgrant_gateway.core.boundary import (
    DeclareStep,
    OpenTask,
    Outcome,
    Pushed,
    ReportStep,
    StepGranted,
    StepSettled,
    TaskClosed,
    TaskOpened,
)
from stepgrant_gateway.core.principal import Peer


class Lease(Protocol):
    """The task of a stream, as the application hands it out (`app.leasing.TaskLease`)."""

    @property
    def opened(self) -> TaskOpened:
        """What the agent is told first."""

    def resume_token(self) -> bytes:
        """A fresh token to take the task up again; earlier ones are void."""

    def declare(self, request: DeclareStep) -> Awaitable[StepGranted | Denial]:
        """Decides on a step, at once; the answer comes when it is durable."""

    async def report(self, request: ReportStep) -> StepSettled:
        """Ends a step as the agent says."""

    async def renew(self, step_id: str) -> StepGranted | Denial:
        """Decides on a step anew."""

    async def close(self, outcome: Outcome) -> TaskClosed:
        """Ends the task."""

    def lost(self, code: str, reason: str) -> None:
        """The stream is gone, or its identity: what rested on it ends now. Harmless after the end."""

    def when_released(self, end_watch: Callable[[], None]) -> None:
        """Calls back when nothing lives any more that was granted on this stream."""


class TaskOpener(Protocol):
    """What opens tasks (`app.lifecycle.Tasks`)."""

    async def open(self, peer: Peer, request: OpenTask, push: Callable[[Pushed], None]) -> Lease | Denial:
        """Decides on opening a task."""
