"""Tasks: opened by a decision, and ended all at once when the gateway drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from stepgrant.errors import Denial, DenialCode
from stepgrant.grant import LEEWAY
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant_gateway.app.authorizer import (
    Rejected,
    decide_open,
    facts,
)
from stepgrant_gateway.app.branching import branch_of, find_hand_off, give_back_hand_off, take_hand_off
from stepgrant_gateway.app.documents import opening_event
from stepgrant_gateway.app.granting import Granting
from stepgrant_gateway.app.handing import Handing
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.app.open_tasks import Shared, Task
from stepgrant_gateway.app.refusals import (
    CLOCK_WENT_BACK,
    LOGGED_OUT,
    NO_SUBJECTS,
    NOT_HANDED_ON,
    NOT_RESUMABLE,
    OVERLOADED,
    TAKING_UP,
    UNRECORDED,
    denial,
)
from stepgrant_gateway.app.resuming import Resuming, parameters_digest
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import MAX_TASKS, State
from stepgrant_gateway.app.taking import find_assignment, give_back_assignment, take_assignment
from stepgrant_gateway.core.boundary import OpenTask, Pushed, TaskOpened, ToolOffer
from stepgrant_gateway.core.decision import NO_PERMIT, Parameters, Refused
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.observations import UNOBSERVED, Boundary, Course
from stepgrant_gateway.core.ports import Clock, Entropy, Journal, Observer, SubjectProver
from stepgrant_gateway.core.principal import Peer, Subject
from stepgrant_gateway.core.recorded import MAX_RECORDED_TEXT
from stepgrant_gateway.core.steps import StepInput

TIDY_EVERY: Final = 1024
"""Openings after which what no decision can need any more is dropped from memory."""


class Tasks:
    """Opens tasks."""

    def __init__(
        self,
        *,
        state: State,
        clock: Clock,
        entropy: Entropy,
        journal: Journal,
        granting: Granting,
        handing: Handing,
        endings: Endings,
        resuming: Resuming,
        prover: SubjectProver | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        """`prover` None: no subject is taken."""
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._journal = journal
        self._granting = granting
        self._handing = handing
        self._endings = endings
        self._resuming = resuming
        self._prover = prover
        self._observer = observer
        self._prepared = 0

    async def open(self, peer: Peer, request: OpenTask, push: Callable[[Pushed], None]) -> TaskLease | Denial:
        """The lease on a task, or why not: on a new one, once its opening is durable, or on the one that is taken up.

        `push` takes what the agent did not ask for.
        """
        course = Course(Boundary.OPEN, self._clock.monotonic())
        answer = await self._open(peer, request, push)
        code = answer.code.value if isinstance(answer, Denial) else ""
        course.task_id = "" if isinstance(answer, Denial) else answer.opened.task_id
        self._observer.decided(course, code, self._clock.monotonic())
        return answer

    async def _open(self, peer: Peer, request: OpenTask, push: Callable[[Pushed], None]) -> TaskLease | Denial:
        now = self._clock.now()
        decision_id = ulid(now, self._entropy(ULID_RANDOM_BYTES))
        full = len(self._state.tasks) >= MAX_TASKS and not request.resume_token
        if self._state.draining or full:
            return await self._deny(peer, request, now, decision_id, Rejected(OVERLOADED))
        if self._state.latest is not None and now < self._state.latest - LEEWAY:
            return await self._deny(peer, request, now, decision_id, Rejected(CLOCK_WENT_BACK))
        subject = self._subject(peer, request, now)
        if isinstance(subject, Refused):
            return await self._deny(peer, request, now, decision_id, Rejected(subject))
        if request.resume_token:
            taken = self._take(peer, request, subject, now, decision_id, push)
            if isinstance(taken, Rejected):
                return await self._deny(peer, request, now, decision_id, taken)
            return self._lease(taken)
        if request.hand_off:
            prepared = self._branch(peer, request, now, push)
        else:
            prepared = self._prepare(peer, request, subject, now, push)
        if isinstance(prepared, Rejected):
            return await self._deny(peer, request, now, decision_id, prepared)
        verdict = decide_open(self._state, prepared, now, peer, subject)
        if isinstance(verdict, Rejected):
            return await self._deny(peer, request, now, decision_id, verdict)
        brings = self._brings(prepared, now)
        self._state.tasks[prepared.key] = prepared
        take_assignment(self._state, prepared)
        take_hand_off(self._state, prepared)
        opened = opening_event(self._state, prepared, verdict, brings, decision_id, now)
        try:
            await self._journal.record(opened).durable()
        except UnrecordedError:
            self._state.tasks.pop(prepared.key, None)
            # It never counts as open: if it becomes durable all the same, its end is, too, before anything else.
            give_back_assignment(self._state, prepared)
            give_back_hand_off(self._state, prepared)
            return denial(UNRECORDED, decision_id)
        except asyncio.CancelledError:
            self._endings.end_task(
                prepared, StepInput.ABANDON, code="stream_lost", reason="the stream ended while opening.", by="gateway"
            )
            raise
        self._state.latest = max(now, self._state.latest or now)
        if prepared.open:  # Else its origin has ended meanwhile, and nothing has to end it any more.
            self._endings.bound(prepared)
        self._bring(prepared, brings)
        return self._lease(prepared)

    def drain(self) -> None:
        """No new task is opened, and those that are open end."""
        self._state.draining = True
        self.end_all("draining", "the gateway is going down; open the task anew.")

    def end_all(self, code: str, reason: str) -> None:
        """Every task ends, and with it every grant."""
        for task in list(self._state.tasks.values()):
            self._endings.end_task(task, StepInput.REVOKE, code=code, reason=reason, by="gateway")

    def _subject(self, peer: Peer, request: OpenTask, now: datetime) -> Subject | Refused | None:
        """Whom the task is for, proven by the token; None without one.

        Only who could open this type at all learns what is wrong with its token (invariant 12).
        """
        if not request.subject_token:
            return None
        proven: Subject | Refused = NO_SUBJECTS if self._prover is None else self._prover.prove(request.subject_token)
        if isinstance(proven, Subject):
            claims = self._state.policy.catalog.prepare_subject(proven)
            if isinstance(claims, Denial):
                proven = Refused(claims.code, claims.reason, claims.next, claims.argument)
            elif self._state.logouts.ended(proven):
                proven = LOGGED_OUT
            else:
                return proven
        catalog = self._state.policy.catalog
        if request.task_type not in catalog.task_types:
            return NO_PERMIT
        blank = self._task(peer, request, None, now, _silent, catalog.blank_parameters(request.task_type))
        return proven if self._state.policy.concerns(facts(blank, now)) else NO_PERMIT

    def _take(
        self, peer: Peer, request: OpenTask, subject: Subject | None, now: datetime, decision_id: str,
        push: Callable[[Pushed], None],
    ) -> Task | Rejected:  # fmt: skip
        """The task, which is this stream's from now on. Without a pause: of two who come at once, one finds nothing."""
        task = self._resuming.find(peer, request, subject)
        if task is None:
            return Rejected(NOT_RESUMABLE)
        if task.taken is not None and not task.taken.done():
            return Rejected(TAKING_UP)
        verdict = decide_open(self._state, task, now, peer, subject)
        if isinstance(verdict, Rejected):
            return verdict
        self._resuming.take(task, peer, subject, push, decision_id, verdict)
        return task

    def _lease(self, task: Task) -> TaskLease:
        return TaskLease(
            task,
            self._opened(task),
            granting=self._granting,
            handing=self._handing,
            endings=self._endings,
            resuming=self._resuming,
            journal=self._journal,
            clock=self._clock,
        )

    def _prepare(
        self, peer: Peer, request: OpenTask, subject: Subject | None, now: datetime, push: Callable[[Pushed], None]
    ) -> Task | Rejected:
        assignment = find_assignment(self._state, peer, request, now) if request.assignment else None
        if isinstance(assignment, Rejected):
            return assignment
        catalog = self._state.policy.catalog
        task_type = catalog.task_types.get(request.task_type)
        if task_type is None:
            return Rejected(NO_PERMIT)
        parameters = catalog.prepare_task(request.task_type, request.parameters)
        wrong = parameters if isinstance(parameters, Denial) else None
        if isinstance(parameters, Denial):
            parameters = catalog.blank_parameters(request.task_type)
        task = self._task(peer, request, subject, now, push, parameters)
        task.shared.assignment = assignment
        if wrong is not None:
            # Only who could open this type at all may learn what is wrong with its parameters (invariant 12).
            may = not isinstance(decide_open(self._state, task, now, peer, subject), Rejected)
            return Rejected(Refused(wrong.code, wrong.reason, wrong.next, wrong.argument) if may else NO_PERMIT)
        return task

    def _branch(self, peer: Peer, request: OpenTask, now: datetime, push: Callable[[Pushed], None]) -> Task | Rejected:
        origin = find_hand_off(self._state, peer, request)
        if isinstance(origin, Rejected):
            return origin
        if not self._endings.still_permitted(origin.giver, origin.step):
            return Rejected(NOT_HANDED_ON)
        return branch_of(self._state, origin, peer, request, now, push)

    def _brings(self, task: Task, now: datetime) -> frozenset[str]:
        """Labels that whoever opens a branch brings from its earlier tasks. A new task has its own already."""
        if task.origin is None:
            return frozenset()
        return self._state.remembered(task.task_type, task.workload, task.instance_jkt, now)

    def _bring(self, task: Task, labels: frozenset[str]) -> None:
        fresh = labels - task.shared.labels.keys()
        for label in labels:
            task.shared.labels.setdefault(label, set()).add("")
        if fresh:
            self._endings.reconsider(task.family(), cause="label", by="gateway")

    def _task(
        self, peer: Peer, request: OpenTask, subject: Subject | None, now: datetime, push: Callable[[Pushed], None],
        parameters: Parameters,
    ) -> Task:  # fmt: skip
        task_type = self._state.policy.catalog.task_types[request.task_type]
        self._prepared += 1
        if self._prepared % TIDY_EVERY == 0:
            self._state.tidy(now)
        remembered = self._state.remembered(task_type, str(peer.spiffe_id), request.instance_jkt, now)
        return Task(
            task_id=ulid(now, self._entropy(ULID_RANDOM_BYTES)),
            task_type=task_type,
            parameters=parameters,
            purpose=request.purpose,
            peer=peer,
            instance_jkt=request.instance_jkt,
            opened_at=now,
            push=push,
            shared=Shared(subject, labels={label: {""} for label in remembered}),
            parameters_sha256=parameters_digest(request),
            linger=self._state.linger,
        )

    def _opened(self, task: Task) -> TaskOpened:
        catalog = self._state.policy.catalog
        names = sorted(self._state.policy.tools_for(task.task_type.name))
        for origin in task.lineage():
            names = [name for name in names if name in origin.hand_off.envelope.tools]
        offers = (
            ToolOffer(name, catalog.tools[name].audience.id, catalog.tools[name].audience.binding) for name in names
        )
        return TaskOpened(task.task_id, task.expires_at, tuple(offers), tuple(task.live), task.branch_id)

    async def _deny(self, peer: Peer, request: OpenTask, now: datetime, decision_id: str, rejected: Rejected) -> Denial:
        refused = rejected.refused
        denied = Event(
            EventType.TASK_DENIED,
            now,
            {
                "decision": decision_id,
                "task_type": request.task_type,
                "resume": bool(request.resume_token),
                "assigned": bool(request.assignment),
                "handed_on": bool(request.hand_off),
                "workload": str(peer.spiffe_id),
                "peer_method": peer.method,
                "code": refused.code.value,
                "reason": refused.reason[:MAX_RECORDED_TEXT],
                "argument": refused.argument[:MAX_RECORDED_TEXT],
                "policies": [
                    {"id": place.policy_id, "file": place.file, "line": place.line} for place in refused.places
                ],
                "errors": list(refused.errors),
                "policy": self._state.policy.digest,
                "revision": self._state.revision,
            },
        )
        if refused.code is not DenialCode.OVERLOADED:
            try:
                await self._journal.record(denied).durable()
            except UnrecordedError:
                return denial(UNRECORDED, decision_id)
        return denial(refused, decision_id)


def _silent(_: Pushed) -> None:
    """Nobody hears of a task that is only asked about."""
