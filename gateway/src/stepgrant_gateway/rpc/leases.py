"""What a stream needs of the application: who opens tasks, and the lease on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from stepgrant.errors import Denial
from stepgrant_gateway.core.boundary import (
    DeclareStep,
    HandedOff,
    HandOffStep,
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

Given_co = TypeVar("Given_co", covariant=True)


class Answer(Protocol[Given_co]):
    """What will be answered: an `asyncio.Future`, or what is like one (`app.answers.Answer`)."""

    def result(self) -> Given_co:
        """The answer; raises why there is none."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> object:
        """Calls back with this once it is known."""


class Lease(Protocol):
    """The task of a stream, as the application hands it out (`app.leasing.TaskLease`)."""

    @property
    def opened(self) -> TaskOpened:
        """What the agent is told first."""

    def resume_token(self) -> bytes:
        """A fresh token to take the task up again; earlier ones are void."""

    def declare(self, request: DeclareStep) -> Answer[StepGranted | Denial]:
        """Decides on a step, at once; the answer comes when it is durable."""

    def report(self, request: ReportStep) -> StepSettled:
        """Ends a step as the agent says."""

    def renew(self, step_id: str) -> Answer[StepGranted | Denial]:
        """Decides on a step anew, at once; the answer comes when it is durable."""

    def hand_off(self, request: HandOffStep) -> Answer[HandedOff | Denial]:
        """Decides on handing a step on, at once; the answer comes when it is durable."""

    def close(self, outcome: Outcome) -> TaskClosed:
        """Ends the task."""

    def lost(self, code: str, reason: str) -> None:
        """The stream is gone, or its identity: what rested on it ends now. Harmless after the end."""

    def when_released(self, end_watch: Callable[[], None]) -> None:
        """Calls back when nothing lives any more that was granted on this stream."""


class TaskOpener(Protocol):
    """What opens tasks (`app.lifecycle.Tasks`)."""

    async def open(self, peer: Peer, request: OpenTask, push: Callable[[Pushed], None]) -> Lease | Denial:
        """Decides on opening a task."""
