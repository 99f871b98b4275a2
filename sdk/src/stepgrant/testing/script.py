"""What a scripted gateway answers, and what it was told: values for tests to write and to read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant.errors import Denial, DenialCode
from stepgrant.grant import Binding, Tier
from stepgrant.handed import TICKET_BYTES, Assignment, HandOff
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.intent import MAX_PARAMETERS_BYTES, Json, parse_object
from stepgrant.tasks import json_object
from stepgrant.v1 import agent_pb2


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
    """A task that was asked for, granted or not. `assigned`: with a ticket, good or not; `subject_token`: as it was shown.

    `branch_id`: of the hand-off that it is a branch by, or empty; `came_through`: the workloads that handed it on, in turn.
    """

    task_id: str
    task_type: str
    parameters: Mapping[str, Json] = field(repr=False)
    purpose: str
    workload: str
    instance_jkt: bytes
    assigned: bool = False
    subject_token: str = field(default="", repr=False)
    branch_id: str = ""
    came_through: tuple[str, ...] = ()


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
class HandedOnStep:
    """A step that was handed on, or was to be. `envelope`: as programs write it."""

    task_id: str
    step_id: str
    tool: str
    workload: str
    envelope: Mapping[str, Mapping[str, Json]] = field(repr=False)
    purpose: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What a branch can be opened with, once. `workload` empty = by whoever; `root` None = in a task that nobody else has."""

    made: HandOff
    workload: str = ""
    root: OpenedTask | None = None
    step_id: str = ""


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
NOT_HANDED_ON: Final = Denial(
    DenialCode.HAND_OFF_REFUSED, "There is no such hand-off.", "In a test: make one with gateway.hand_off(...)."
)
ORIGIN: Final = "spiffe://test.stepgrant.test/agent/origin"
"""Who has the tasks that `Script.hand_off` makes branches of."""
NOT_SCRIPTED: Final = Denial(
    DenialCode.NO_PERMIT,
    "Nothing permits this.",
    "In a test: script it, with gateway.grant(...), open(...) or allow_hand_off(...).",
)


class Script:
    """The answers to be given and what was heard. What is not scripted is denied, as with a gateway without permits."""

    def __init__(self) -> None:
        self.opened: list[OpenedTask] = []
        self.declared: list[DeclaredStep] = []
        self.handed_on: list[HandedOnStep] = []
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
        self._offers: dict[bytes, Offer] = {}
        self._tools: dict[str, Rule] = {}
        self._hand_offs: dict[str, Denial | None] = {}
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
        made = Assignment(_new_id(), task_type, words, purpose, ticket)
        self._assigned[ticket] = made
        return made

    def hand_off(
        self, task_type: str, parameters: Mapping[str, object] | None = None, *, purpose: str = ""
    ) -> HandOff:  # fmt: skip
        """What another workload would hand over: opens one branch of a task of this type, unless `deny_open` says no."""
        words = parse_object(json_object(parameters or {}, MAX_PARAMETERS_BYTES, "parameters"))
        return self._offered(Offer(HandOff(_new_id(), task_type, words, purpose, os.urandom(TICKET_BYTES))))

    def offer(self, root: OpenedTask, message: agent_pb2.HandOff) -> HandOff:
        """What the receiver of a step opens its branch with, while the step lives."""
        ticket = os.urandom(TICKET_BYTES)
        made = HandOff(_new_id(), root.task_type, root.parameters, message.purpose, ticket)
        return self._offered(Offer(made, message.workload, root, message.step_id))

    def withdraw_offers(self, step_id: str) -> None:
        """The step has ended: nobody can open a branch below it any more."""
        for ticket in [ticket for ticket, offer in self._offers.items() if offer.step_id == step_id]:
            del self._offers[ticket]

    def take_hand_off(self, ticket: bytes, asked: OpenedTask) -> tuple[OpenedTask, str] | Denial:
        """The branch that is asked for and the step that it is below, and the hand-off is used; or why not."""
        found = self._offers.get(ticket)
        if (
            found is None
            or found.workload not in {"", asked.workload}
            or (found.made.task_type, found.made.parameters) != (asked.task_type, asked.parameters)
        ):
            return NOT_HANDED_ON
        denial = self.for_task(asked.task_type, assigned=True)
        if denial is not None:
            return denial
        del self._offers[ticket]
        root = found.root
        task_id, through = (
            (asked.task_id, (ORIGIN,)) if root is None else (root.task_id, (*root.came_through, root.workload))
        )
        return replace(asked, task_id=task_id, branch_id=found.made.id, came_through=through), found.step_id

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

    def allow_hand_off(self, tool: str) -> None:
        """Steps with this tool may be handed on."""
        self._hand_offs[tool] = None

    def deny_hand_off(
        self, tool: str, code: DenialCode = DenialCode.NO_PERMIT, reason: str = NOT_SCRIPTED.reason
    ) -> None:  # fmt: skip
        """Steps with this tool are not handed on."""
        self._hand_offs[tool] = Denial(code, reason, "Do it yourself.")

    def hold(self, tool: str) -> None:
        """Declares and hand-offs of this tool get no answer until `release`."""
        self._held.add(tool)

    async def release(self, tool: str) -> None:
        """What was held of this tool gets its answers."""
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

    def for_hand_off(self, tool: str) -> Denial | None:
        """What handing on a step with this tool is answered; None = it is handed on."""
        return self._hand_offs.get(tool, NOT_SCRIPTED)

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

    def _offered(self, offer: Offer) -> HandOff:
        self._offers[offer.made.ticket] = offer
        return offer.made


def _new_id() -> str:
    return ulid(datetime.now(UTC), os.urandom(ULID_RANDOM_BYTES))
