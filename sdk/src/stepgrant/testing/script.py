"""What a scripted gateway answers, and what it was told: values for tests to write and to read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant.assignment import TICKET_BYTES, Assignment
from stepgrant.errors import Denial, DenialCode
from stepgrant.grant import Binding, Tier
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.intent import MAX_PARAMETERS_BYTES, Json, parse_object
from stepgrant.tasks import json_object


@dataclass(frozen=True, slots=True)
class GrantRule:
    """Grant the tool with these terms. `uses` None = not limited."""

    ttl: timedelta = timedelta(seconds=30)
    step_max_age: timedelta = timedelta(minutes=5)
    uses: int | None = None
    tier: Tier = Tier.ROUTINE
    audience: str = "spiffe://test.stepgrant.test/resource"
    binding: Binding = Binding.MTLS
    target: str = "test://target"


@dataclass(frozen=True, slots=True)
class OpenedTask:
    """A task that was asked for, granted or not. `assigned`: with a ticket, good or not; `subject_token`: as it was shown."""

    task_id: str
    task_type: str
    parameters: Mapping[str, Json] = field(repr=False)
    purpose: str
    workload: str
    instance_jkt: bytes
    assigned: bool = False
    subject_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DeclaredStep:
    """A step that was declared, granted or not."""

    task_id: str
    step_id: str
    parent_step_id: str
    tool: str
    arguments: Mapping[str, Json] = field(repr=False)
    purpose: str
    wanted_ttl: timedelta | None


@dataclass(frozen=True, slots=True)
class ReportedStep:
    """A report. `late`: the step had ended before."""

    step_id: str
    tool: str
    failed: bool
    error_class: str
    result_sha256: bytes
    late: bool


Rule = GrantRule | Denial
NOT_ASSIGNED: Final = Denial(
    DenialCode.ASSIGNMENT_REFUSED, "There is no such assignment.", "In a test: make one with gateway.assign(...)."
)
NOT_SCRIPTED: Final = Denial(
    DenialCode.NO_PERMIT, "Nothing permits this.", "In a test: script it with gateway.grant(...) or gateway.open(...)."
)


class Script:
    """The answers to be given and what was heard. What is not scripted is denied, as with a gateway without permits."""

    def __init__(self) -> None:
        self.opened: list[OpenedTask] = []
        self.declared: list[DeclaredStep] = []
        self.renewed: list[str] = []
        self.reported: list[ReportedStep] = []
        self.lost: list[str] = []
        """Ids of tasks whose stream was lost, once for each time."""
        self.resumed: list[str] = []
        """Ids of tasks that another stream took up or over, once for each time."""
        self.closed: list[tuple[str, bool]] = []
        """Task ids, and whether they were closed as failed."""
        self._tasks: dict[str, Denial | None] = {}
        self._assigned: dict[bytes, Assignment] = {}
        self._tools: dict[str, Rule] = {}
        self._renewals: dict[str, Denial] = {}
        self._held: set[str] = set()
        self._changed = asyncio.Condition()

    def open(self, task_type: str) -> None:
        """Tasks of this type may be opened."""
        self._tasks[task_type] = None

    def assign(
        self, task_type: str, parameters: Mapping[str, object] | None = None, *, purpose: str = ""
    ) -> Assignment:  # fmt: skip
        """What a dispatcher would hand over: opens one task of this type with these words, unless `deny_open` says no."""
        words = parse_object(json_object(parameters or {}, MAX_PARAMETERS_BYTES, "parameters"))
        ticket = os.urandom(TICKET_BYTES)
        made = Assignment(ulid(datetime.now(UTC), os.urandom(ULID_RANDOM_BYTES)), task_type, words, purpose, ticket)
        self._assigned[ticket] = made
        return made

    def take(self, ticket: bytes, asked: OpenedTask) -> Denial | None:
        """None, and the assignment is used; or why not."""
        found = self._assigned.get(ticket)
        said = (asked.task_type, asked.parameters, asked.purpose)
        if found is None or (found.task_type, found.parameters, found.purpose) != said:
            return NOT_ASSIGNED
        denial = self.for_task(asked.task_type, assigned=True)
        if denial is None:
            del self._assigned[ticket]
        return denial

    def deny_open(self, task_type: str, denial: Denial = NOT_SCRIPTED) -> None:
        """Tasks of this type are refused."""
        self._tasks[task_type] = denial

    def grant(self, tool: str, rule: GrantRule | None = None) -> None:
        """Steps with this tool are granted."""
        self._tools[tool] = rule or GrantRule()

    def deny(
        self,
        tool: str,
        code: DenialCode = DenialCode.NO_PERMIT,
        reason: str = NOT_SCRIPTED.reason,
        *,
        next_step: str = "Ask for something else.",
        argument: str = "",
        retry_after: timedelta | None = None,
    ) -> None:
        """Steps with this tool are refused."""
        self._tools[tool] = Denial(code, reason, next_step, argument=argument, retry_after=retry_after)

    def deny_renewals(self, tool: str, code: DenialCode = DenialCode.STEP_EXPIRING, reason: str = "Enough.") -> None:
        """Renewals of steps with this tool are refused; the grant that they have runs out."""
        self._renewals[tool] = Denial(code, reason, "Finish the step.")

    def allow_renewals(self, tool: str) -> None:
        """Renewals of steps with this tool are not refused any more."""
        self._renewals.pop(tool, None)

    def hold(self, tool: str) -> None:
        """Declares of this tool get no answer until `release`."""
        self._held.add(tool)

    async def release(self, tool: str) -> None:
        """Declares of this tool that were held get their answers."""
        self._held.discard(tool)
        await self.note()

    def tools(self) -> dict[str, GrantRule]:
        """Tools that would be granted."""
        return {tool: rule for tool, rule in self._tools.items() if isinstance(rule, GrantRule)}

    def for_task(self, task_type: str, *, assigned: bool = False) -> Denial | None:
        """What opening a task of this type is answered; None = it is opened."""
        return self._tasks.get(task_type, None if assigned else NOT_SCRIPTED)

    def for_tool(self, tool: str) -> Rule:
        """What a step with this tool is answered."""
        return self._tools.get(tool, NOT_SCRIPTED)

    def for_renewal(self, tool: str) -> Rule:
        """What a renewal is answered: as the step is now, unless renewals are refused."""
        return self._renewals.get(tool) or self.for_tool(tool)

    async def until_released(self, tool: str) -> None:
        """Returns when the tool is not held."""
        async with self._changed:
            await self._changed.wait_for(lambda: tool not in self._held)

    async def note(self) -> None:
        """Something was heard: whoever waits `until` looks again."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool], within: timedelta = timedelta(seconds=5)) -> None:
        """Returns when `condition` holds, which is looked at whenever something was heard; TimeoutError otherwise."""
        async with asyncio.timeout(within.total_seconds()), self._changed:
            await self._changed.wait_for(condition)
