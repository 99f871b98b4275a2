"""What earlier lives of the gateway left behind: a fold over the ledger's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from stepgrant.selector import Selector
from stepgrant.subject import SubjectId
from stepgrant_gateway.core.assignments import Assignment, AssignmentState
from stepgrant_gateway.core.events import UNDELIVERED, Event, EventType
from stepgrant_gateway.core.labels import LabelMemory
from stepgrant_gateway.core.logouts import Logouts, logout_of
from stepgrant_gateway.core.revocation import Lock

GRAIN: Final = timedelta(minutes=1)
"""What one workload spent of one budget within this is kept as one sum, at the time of the last of it: never too early."""

COARSER: Final = ((timedelta(days=1), timedelta(hours=1)), (timedelta(days=30), timedelta(days=1)))
"""(from this age on, what was spent within this is one sum): a budget of a workload takes 300 bytes a minute for a day, no longer."""

BudgetKey = tuple[str, str]
"""(budget, workload), or (budget, `issuer#sub`) where it counts by subject."""
StepKey = tuple[str, str]
"""(task id, step id)."""


@dataclass(slots=True)
class Spent:
    """What steps added to a budget of their workload within one GRAIN, and when the last of them did."""

    at: datetime
    amount: Decimal


@dataclass(slots=True)
class OpenTask:
    """A task that was open when the record ends, and the labels that it has. `subject`: `issuer#sub`, or empty."""

    workload: str
    instance_jkt: bytes
    labels: set[str]
    subject: str = ""


@dataclass(slots=True)
class OpenBranch:
    """A branch of an open task that was open when the record ends, and who worked on it."""

    task: str
    workload: str
    instance_jkt: bytes


@dataclass(slots=True)
class LiveStep:
    """A step that was live when the record ends: its grant, and what it spent of which budgets, when.

    `by_subject` names those of its budgets that count by subject; the others count for each of `chain`, or for the
    workload of its task if that is empty.
    """

    grant: str
    exp_ms: int
    at: datetime
    deltas: dict[str, str]
    by_subject: frozenset[str] = frozenset()
    chain: tuple[str, ...] = ()


@dataclass(slots=True)
class History:
    """Locks in force, what was spent, labels brought, what is assigned, what was open when the record ends, and its last time.

    What it takes up grows with workloads, labels and times in which something was spent, not with events.
    """

    locks: dict[str, Lock] = field(default_factory=dict)
    spent: dict[BudgetKey, dict[int, Spent]] = field(default_factory=dict)
    labels: LabelMemory = field(default_factory=LabelMemory)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    open_tasks: dict[str, OpenTask] = field(default_factory=dict)
    open_branches: dict[str, OpenBranch] = field(default_factory=dict)
    live_steps: dict[StepKey, LiveStep] = field(default_factory=dict)
    logouts: Logouts = field(default_factory=Logouts)
    latest: datetime | None = None

    def follow(self, event: Event) -> None:
        """Takes in the event after those that it has taken in already."""
        if self.latest is None or event.at > self.latest:
            self.latest = event.at
        data = event.data
        match event.type:
            case EventType.LOCK_SET:
                selector = Selector(**data["selector"])
                self.locks[data["lock"]] = Lock(data["lock"], selector, data["reason"], event.at, data["by"])
            case EventType.LOCK_LIFTED:
                self.locks.pop(data["lock"], None)
            case EventType.TASK_OPENED:
                jkt = bytes.fromhex(data["instance_jkt"])
                self.open_tasks[data["task"]] = OpenTask(
                    data["workload"], jkt, set(data["labels"]), _subject(data.get("subject"))
                )
                self._become(data.get("assignment", ""), AssignmentState.TAKEN, data["task"])
            case EventType.ASSIGNMENT_MADE:
                self.assignments[data["assignment"]] = _assignment(data)
            case EventType.ASSIGNMENT_WITHDRAWN:
                if data["code"] == UNDELIVERED:
                    self.assignments.pop(data["assignment"], None)
                else:
                    self._become(data["assignment"], AssignmentState.WITHDRAWN, data["task"])
            case EventType.TASK_CLOSED:
                if data.get("code") == UNDELIVERED:
                    self._give_back(data["task"])
                task = self.open_tasks.pop(data["task"], None)
                # A task has its labels to its end, those included that it began with.
                if task is not None and task.labels:
                    self.labels.remember(task.workload, task.instance_jkt, task.labels, event.at)
            case EventType.BRANCH_OPENED:
                self._branched(data)
            case EventType.BRANCH_CLOSED:
                branch = self.open_branches.pop(data["branch"], None)
                of = self.open_tasks.get(data["task"])
                # Who worked on it has seen all that the task's labels tell of; who was never told of it, nothing.
                if branch is not None and of is not None and of.labels and data["code"] != UNDELIVERED:
                    self.labels.remember(branch.workload, branch.instance_jkt, of.labels, event.at)
            case EventType.STEP_GRANTED:
                self._granted(event)
            case EventType.STEP_RENEWED:
                step = self.live_steps.get((data["task"], data["step"]))
                if step is not None:
                    step.grant, step.exp_ms = data["grant"], data["exp_ms"]
            case EventType.STEP_ENDED:
                step = self.live_steps.pop((data["task"], data["step"]), None)
                if step is not None and data["code"] == UNDELIVERED:
                    for name, amount in step.deltas.items():
                        self._spend(data["task"], name, step, -Decimal(amount))
            case EventType.SUBJECT_LOGGED_OUT:
                self.logouts.note(logout_of(dict(data)))
            case EventType.CLOCK_FORGIVEN:
                self.latest = event.at
            case _:
                pass

    def tidy(self, now: datetime | None = None) -> None:
        """Drops what is over at the end of the record, or now, if that is earlier; sums up what was spent before.

        Over are labels that no window reaches, and assignments that have expired.
        """
        if self.latest is None:
            return
        end = self.latest if now is None else min(self.latest, now)
        self.labels.tidy(end)
        self.logouts.tidy(end)
        self.assignments = {name: one for name, one in self.assignments.items() if one.until > end}
        self.spent = {key: _coarser(grains, end) for key, grains in self.spent.items()}

    def _become(self, assignment_id: str, state: AssignmentState, task_id: str) -> None:
        assignment = self.assignments.get(assignment_id)
        if assignment is not None:
            self.assignments[assignment_id] = replace(assignment, state=state, task_id=task_id)

    def _give_back(self, task_id: str) -> None:
        """A task that nobody was told of has taken nothing."""
        for assignment in list(self.assignments.values()):
            if assignment.task_id == task_id and assignment.state is AssignmentState.TAKEN:
                self._become(assignment.assignment_id, AssignmentState.OPEN, "")

    def _branched(self, data: Mapping[str, Any]) -> None:
        jkt = bytes.fromhex(data["instance_jkt"])
        self.open_branches[data["branch"]] = OpenBranch(data["task"], data["workload"], jkt)
        task = self.open_tasks.get(data["task"])
        if task is not None:
            task.labels.update(data["labels"])

    def _granted(self, event: Event) -> None:
        data = event.data
        step = self.live_steps[data["task"], data["step"]] = LiveStep(
            data["grant"], data["exp_ms"], event.at, dict(data["deltas"]), frozenset(data.get("by_subject", ())),
            tuple(data.get("chain", ())),
        )  # fmt: skip
        task = self.open_tasks.get(data["task"])
        if task is not None and data["labels"]:
            task.labels.update(data["labels"])
            self.labels.remember(task.workload, task.instance_jkt, data["labels"], event.at)
        for name, amount in data["deltas"].items():
            self._spend(data["task"], name, step, Decimal(amount))

    def _spend(self, task_id: str, budget: str, step: LiveStep, amount: Decimal) -> None:
        task = self.open_tasks.get(task_id)
        if task is None:
            return
        owners = (task.subject,) if budget in step.by_subject else step.chain or (task.workload,)
        for owner in owners:
            _add(self.spent.setdefault((budget, owner), {}), _number(step.at), step.at, amount)


def _subject(said: Mapping[str, str] | None) -> str:
    return "" if said is None else str(SubjectId(said["iss"], said["sub"]))


def _assignment(data: Mapping[str, Any]) -> Assignment:
    return Assignment(
        assignment_id=data["assignment"],
        ticket_sha256=bytes.fromhex(data["ticket_sha256"]),
        words_sha256=bytes.fromhex(data["words_sha256"]),
        dispatcher=data["dispatcher"],
        workload=data["workload"],
        task_type=data["task_type"],
        until=datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=data["until_ms"]),
    )


def _number(at: datetime) -> int:
    return int(at.timestamp()) // int(GRAIN.total_seconds())


def _add(grains: dict[int, Spent], number: int, at: datetime, amount: Decimal) -> None:
    grain = grains.get(number)
    if grain is None:
        grains[number] = Spent(at, amount)
    else:
        grain.at, grain.amount = max(at, grain.at), grain.amount + amount


def _coarser(grains: dict[int, Spent], now: datetime) -> dict[int, Spent]:
    """The same, however often it is done on the way: a sum stands at the first minute of its hour or day, whose age decides."""
    kept: dict[int, Spent] = {}
    for number, spent in grains.items():
        place = number
        for age, width in COARSER:
            first = number - number % (width // GRAIN)
            if _number(now) - first >= age // GRAIN:
                place = first
        _add(kept, place, spent.at, spent.amount)
    return kept


def fold(events: Iterable[Event]) -> History:
    """The history that the events tell, oldest first."""
    history = History()
    for event in events:
        history.follow(event)
    history.tidy()
    return history
