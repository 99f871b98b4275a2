"""Open tasks, their branches and their steps, as they stand in memory. Changed on the event loop's thread only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from stepgrant.errors import Denial
from stepgrant_gateway.app.answers import Answer
from stepgrant_gateway.app.expiry import Deadline
from stepgrant_gateway.core.assignments import Assignment
from stepgrant_gateway.core.boundary import DeclareStep, Pushed, Redeemed, StepGranted
from stepgrant_gateway.core.budgets import Book, StepKey
from stepgrant_gateway.core.decision import Call, Parameters, Question, TaskType
from stepgrant_gateway.core.delegation import Envelope
from stepgrant_gateway.core.grants import MAX_LINGER, Lifetime, Terms
from stepgrant_gateway.core.hand_offs import HandOff
from stepgrant_gateway.core.observations import Course
from stepgrant_gateway.core.ports import Receipt
from stepgrant_gateway.core.principal import Peer, Subject
from stepgrant_gateway.core.steps import InvalidTransitionError, StepState

MAX_STEPS: Final = 10_000
"""Steps of one task in all; what is kept of an ended one is small."""
MAX_LIVE_STEPS: Final = 64
"""Live steps of one task at once."""
MAX_STEP_DEPTH: Final = 8
"""Depth of nested steps; 1 = no children."""
MAX_LATE_REPORTS: Final = 3
"""Reports of one ended step that are recorded: ends are never dropped, so their number must have an end."""


@dataclass(slots=True)
class LiveGrant:
    """The grant that a step holds now. `answer` is None until the decision is durable.

    `policy_digest` names the set that gave it, `held_against` the latest set that it has been held against.
    """

    grant_id: str
    decision_id: str
    audience: str
    lifetime: Lifetime
    terms: Terms
    policy_digest: str
    held_against: str
    deadline: Deadline
    answer: StepGranted | None = None


@dataclass(slots=True)
class Step:
    """One step of a task. `questions` are what the last decision saw; `call` and `grant` are None when it was denied.

    `peer` is who was on the stream that declared it: its grants stay bound to that SVID, whichever stream the task is on.
    `of`: the key of the task, or branch, that it was declared in. `hand_offs`: what it was handed on by.
    """

    key: StepKey
    of: str
    declared: DeclareStep
    intent_sha256: bytes
    declared_at: datetime
    state: StepState
    depth: int
    parent: Step | None
    peer: Peer
    call: Call | None = None
    target: str = ""
    envelope: Envelope | None = None
    questions: tuple[Question, ...] = ()
    grant: LiveGrant | None = None
    uses_left: int | None = None
    ends_at: datetime | None = None
    reason: str = ""
    code: str = ""
    first_answer: Answer[StepGranted | Denial] | None = None
    renewing: bool = False
    course: Course | None = None
    late_reports: int = 0
    redemptions: dict[str, asyncio.Future[Redeemed] | Redeemed] = field(default_factory=dict)
    hand_offs: list[HandOff] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """True while the step holds, or is about to be given, a grant."""
        return self.state is StepState.GRANTED

    @property
    def held(self) -> LiveGrant:
        """The grant of a step that was granted.

        Raises:
            InvalidTransitionError: it never was: a bug of the caller.
        """
        if self.grant is None:
            raise InvalidTransitionError(f"a step that is {self.state.value} holds no grant")
        return self.grant

    def slim(self) -> None:
        """Lets go of all that only a live step needs; what stays is small, so that a task may have MAX_STEPS of them."""
        self.declared = replace(self.declared, arguments={}, purpose="", envelope=None)
        self.call = self.envelope = self.first_answer = None
        self.questions = ()
        self.hand_offs.clear()
        if self.grant is not None:
            self.grant.answer = None

    def ancestors(self) -> Iterable[Step]:
        """Parent, its parent, and so on."""
        step = self.parent
        while step is not None:
            yield step
            step = step.parent


@dataclass(slots=True)
class Shared:
    """What a task has in common with its branches. `subject`: the user on whose behalf it runs, as the latest token said.

    `labels` maps each label to the ids of the steps that brought it ("" = from memory). `assignment` None = only the agent
    vouches for it. `branches`: those that are open, by their ids.
    """

    subject: Subject | None = None
    assignment: Assignment | None = None
    labels: dict[str, set[str]] = field(default_factory=dict)
    completed: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    denials: int = 0
    steps: dict[str, Step] = field(default_factory=dict)
    books: dict[str, Book] = field(default_factory=dict)
    branches: dict[str, Task] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a branch comes from: the hand-off, the step that it handed on, and the task or branch that the step is of."""

    hand_off: HandOff
    step: Step
    giver: Task


@dataclass(slots=True)
class Task:
    """One open task, or one branch of it: what one stream has. A branch has its `origin`, and ends with it.

    `peer` and `push` are of the stream that has it now, the `holds`-th. While it is `lingering`, none has, and for `linger`
    from the loss another may take it up. `live`: its own steps that live. `watched`: earlier peers of live steps, and what
    ends the watch over each.
    """

    task_id: str
    task_type: TaskType
    parameters: Parameters
    purpose: str
    peer: Peer
    instance_jkt: bytes
    opened_at: datetime
    push: Callable[[Pushed], None]
    shared: Shared = field(default_factory=Shared)
    origin: Origin | None = None
    workload: str = field(init=False)
    """SPIFFE ID of the workload."""
    chain: tuple[str, ...] = field(init=False)
    """SPIFFE IDs of the workloads from the one that opened the task to this one."""
    open: bool = True
    live: dict[str, Step] = field(default_factory=dict)
    deadlines: list[Deadline] = field(default_factory=list)
    parameters_sha256: bytes = b""
    resume_sha256: bytes = b""
    linger: timedelta = MAX_LINGER
    lingering: bool = False
    holds: int = 0
    taken: Receipt | None = None
    watched: list[tuple[Peer, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workload = str(self.peer.spiffe_id)
        self.chain = (*(self.origin.giver.chain if self.origin is not None else ()), self.workload)

    @property
    def branch_id(self) -> str:
        """The id of the branch; empty for the task itself."""
        return "" if self.origin is None else self.origin.hand_off.hand_off_id

    @property
    def key(self) -> str:
        """What it is known by among all that is open: its own id."""
        return self.branch_id or self.task_id

    @property
    def named(self) -> dict[str, str]:
        """How records name it."""
        return {"task": self.task_id} if self.origin is None else {"task": self.task_id, "branch": self.branch_id}

    @property
    def root(self) -> Task:
        """The task itself."""
        return self if self.origin is None else self.origin.giver.root

    @property
    def expires_at(self) -> datetime:
        """The end of its max_age, or of the SVID of its stream, or of its subject's token; for a branch, of its origin's."""
        if self.origin is not None:
            return min(self.origin.giver.expires_at, self.peer.not_after)
        end = min(self.opened_at + self.task_type.max_age, self.peer.not_after)
        return end if self.subject is None else min(end, self.subject.expires_at)

    @property
    def subject(self) -> Subject | None:
        """The user on whose behalf it runs; the same user to the end."""
        return self.shared.subject

    @property
    def on_behalf_of(self) -> str | None:
        """The subject, `issuer#sub`, or None."""
        return None if self.subject is None else str(self.subject.id)

    def own_step(self, step_id: str) -> Step | None:
        """The step that was declared under this id on a stream of this very task or branch."""
        step = self.shared.steps.get(step_id)
        return step if step is not None and step.of == self.key else None

    def links(self, peer: Peer) -> tuple[tuple[Task, Peer], ...]:
        """From the task itself to this branch of it, which `peer` works on: each with the peer that handed on."""
        if self.origin is None:
            return ((self, peer),)
        return (*self.origin.giver.links(self.origin.step.peer), (self, peer))

    def family(self) -> tuple[Task, ...]:
        """The task itself, and all branches of it that are open."""
        return (self.root, *self.shared.branches.values())

    def count_live(self) -> int:
        """Steps that live in the task itself and in all branches of it."""
        return sum([len(held.live) for held in self.family()])

    def lineage(self) -> Iterator[Origin]:
        """Its own origin, its giver's, and so on."""
        origin = self.origin
        while origin is not None:
            yield origin
            origin = origin.giver.origin

    def unwatch(self, *, all_of_them: bool) -> None:
        """Ends the watch over earlier peers under which no step is live any more, or over all."""
        needed = [] if all_of_them else [step.peer for step in self.live.values()]
        for peer, end_watch in self.watched:
            if peer not in needed:
                end_watch()
        self.watched = [(peer, end_watch) for peer, end_watch in self.watched if peer in needed]

    def labels_without(self, step_id: str) -> frozenset[str]:
        """The labels that any other step than this one, or memory, brought."""
        return frozenset(
            [label for label, sources in self.shared.labels.items() if len(sources) > (step_id in sources)]
        )
