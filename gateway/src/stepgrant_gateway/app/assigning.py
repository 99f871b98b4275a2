"""Assignments: made by a decision, and ended by who made them. How they are taken is in `taking`."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from stepgrant.errors import Denial, DenialCode, InvalidInputError
from stepgrant.grant import LEEWAY
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.selector import matches
from stepgrant_gateway.app.authorizer import Rejected, decide_whole
from stepgrant_gateway.app.expiry import Deadlines
from stepgrant_gateway.app.locking import lock_refusal
from stepgrant_gateway.app.open_tasks import Task
from stepgrant_gateway.app.refusals import CLOCK_WENT_BACK, OVERLOADED, UNRECORDED, denial, limit
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.app.undertakings import Undertakings
from stepgrant_gateway.core.assignments import (
    LONGEST_ASSIGNMENT,
    Assignment,
    AssignmentState,
    ticket_digest,
    words_digest,
)
from stepgrant_gateway.core.boundary import Assigned, AssignTask, Withdrawn
from stepgrant_gateway.core.decision import NO_PERMIT, Parameters, Permitted, Question, Refused, StepFacts, TaskFacts
from stepgrant_gateway.core.errors import AssignmentExistsError, NotFoundError, UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.observations import UNOBSERVED, Boundary, Course
from stepgrant_gateway.core.ports import Clock, Entropy, Journal, Observer, Receipt
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.core.recorded import denied, milliseconds
from stepgrant_gateway.core.steps import StepInput

MAX_ASSIGNMENTS: Final = 20_000
"""Assignments of everybody that have not expired: as many as tasks, at 500 bytes each."""
MAX_ASSIGNMENTS_EACH: Final = 5_000
"""Of one dispatcher, so that one cannot take the place of all."""
WITHDRAWN: Final = "assignment_withdrawn"
"""The code of a task that ends because its dispatcher took the assignment back."""

logger = logging.getLogger(__name__)


def decide_assign(state: State, task: TaskFacts, peer: Peer, now: datetime) -> Permitted | Rejected:
    """Whether `peer` may assign this task, which is not open yet, to its workload."""
    dispatcher = str(peer.spiffe_id)
    books = {name: state.books.get((name, task.workload)) for name in state.policy.catalog.budgets}
    question = Question(
        task=task,
        step=StepFacts(),
        call=None,
        budget={name: Decimal(0) if book is None else book.spent(now, ("", "")) for name, book in books.items()},
        peer_method=peer.method,
        now=now,
        dispatcher=dispatcher,
        assigning=True,
    )
    locks = (
        lock for lock in state.locks.values() for workload in (task.workload, dispatcher)
        if matches(lock.selector, workload=workload, task_type=task.task_type, tool=None, target=None, subject=None)
    )  # fmt: skip
    lock = next(locks, None)
    return decide_whole(state, question, None if lock is None else lock_refusal(lock))


class Assigning:
    """What dispatchers do."""

    def __init__(
        self, *, state: State, clock: Clock, entropy: Entropy, journal: Journal, endings: Endings, deadlines: Deadlines,
        observer: Observer = UNOBSERVED,
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._journal = journal
        self._endings = endings
        self._deadlines = deadlines
        self._observer = observer
        self._undertakings = Undertakings()
        self._pending: dict[bytes, tuple[Assignment, Receipt]] = {}
        self._withdrawals: dict[str, Receipt] = {}
        self._of: Counter[str] = Counter()
        for assignment in state.assignments.values():
            self._of[assignment.dispatcher] += 1
            self._expect_expiry(assignment)

    async def assign(self, peer: Peer, request: AssignTask) -> Assigned | Denial:
        """The assignment, once it is durable, or why not. The same words under the same ticket get the same one.

        Raises:
            InvalidInputError: its time is over, or longer than `LONGEST_ASSIGNMENT`.
            AssignmentExistsError: the ticket stands for other words.
        """
        now = self._clock.now()
        if not now < request.until <= now + LONGEST_ASSIGNMENT + LEEWAY:
            raise InvalidInputError(
                f"an assignment ends in the future, and within {LONGEST_ASSIGNMENT}: say another time"
            )
        course = Course(Boundary.ASSIGN, self._clock.monotonic())
        answer = await self._assign(peer, request, now)
        code = answer.code.value if isinstance(answer, Denial) else ""
        self._observer.decided(course, code, self._clock.monotonic())
        return answer

    async def _assign(self, peer: Peer, request: AssignTask, now: datetime) -> Assigned | Denial:
        decision_id = ulid(now, self._entropy(ULID_RANDOM_BYTES))
        verdict = self._decide(peer, request, now)
        if isinstance(verdict, Rejected):
            return await self._deny(peer, request, now, decision_id, verdict)
        parameters, permitted = verdict
        wanted = Assignment(
            assignment_id=ulid(now, self._entropy(ULID_RANDOM_BYTES)),
            ticket_sha256=ticket_digest(request.ticket),
            words_sha256=words_digest(request.ticket, request.parameters, request.purpose),
            dispatcher=str(peer.spiffe_id),
            workload=request.workload,
            task_type=request.task_type,
            until=request.until,
        )
        known = self._known(wanted)
        if known is not None:
            return await self._answer(known, decision_id)
        full = self._full(wanted.dispatcher)
        if full is not None:
            return denial(full, decision_id)
        made = Event(
            EventType.ASSIGNMENT_MADE,
            now,
            {
                "assignment": wanted.assignment_id,
                "decision": decision_id,
                "dispatcher": wanted.dispatcher,
                "peer_method": peer.method,
                "workload": wanted.workload,
                "task_type": wanted.task_type,
                "ticket_sha256": wanted.ticket_sha256.hex(),
                "words_sha256": wanted.words_sha256.hex(),
                "until_ms": milliseconds(wanted.until),
                "policies": [permit.place.policy_id for permit in permitted.permits],
                "policy": self._state.policy.digest,
                "revision": self._state.revision,
            },
            input={"parameters": dict(parameters.values), "purpose": request.purpose},
            sensitive=parameters.sensitive,
        )
        # Nobody can take it before it is durable; who asks for the same meanwhile waits for the same.
        self._of[wanted.dispatcher] += 1
        receipt = self._journal.record(made)
        self._pending[wanted.ticket_sha256] = wanted, receipt
        return await self._undertakings.finish(self._make(wanted, receipt, decision_id))

    async def withdraw(self, peer: Peer, assignment_id: str) -> Withdrawn:
        """The assignment opens nothing any more, and its task, if it is open, has ended. Does not wait for the ledger.

        Raises:
            NotFoundError: this dispatcher has made none of that id, or it is over.
        """
        dispatcher = str(peer.spiffe_id)
        found = self._state.assignments.get(assignment_id) or self._of_a_task(assignment_id)
        if found is None or found.dispatcher != dispatcher:
            raise NotFoundError(f"{dispatcher} has no assignment {assignment_id} that is open or whose task is")
        task = self._state.tasks.get(found.task_id)
        receipt = self._withdrawals.get(assignment_id)
        if found.state is not AssignmentState.WITHDRAWN:
            receipt = self._withdraw(found, task)
        ended = "" if task is None else task.task_id
        try:
            if receipt is not None:
                await receipt.durable()
        except UnrecordedError:
            return Withdrawn(ended, durable=False)
        return Withdrawn(ended, durable=True)

    def _withdraw(self, found: Assignment, task: Task | None) -> Receipt:
        withdrawn = replace(found, state=AssignmentState.WITHDRAWN)
        data = {
            "assignment": found.assignment_id,
            "by": found.dispatcher,
            "task": found.task_id,
            "code": found.state.value,
        }
        event = Event(EventType.ASSIGNMENT_WITHDRAWN, self._clock.now(), data)
        receipt = self._journal.record_end(event)
        if found.assignment_id in self._state.assignments:
            self._state.keep_assignment(withdrawn)
            self._withdrawals[found.assignment_id] = receipt
        if task is not None:
            task.shared.assignment = withdrawn
            reason = "its dispatcher has withdrawn the assignment."
            self._endings.end_task(task, StepInput.REVOKE, code=WITHDRAWN, reason=reason, by=found.dispatcher)
        logger.info("Assignment %s was withdrawn by %s.", found.assignment_id, found.dispatcher)
        return receipt

    def _decide(self, peer: Peer, request: AssignTask, now: datetime) -> tuple[Parameters, Permitted] | Rejected:
        """1. The gateway takes work on. 2. The type and its parameters are of the catalog. 3. Locks and policy allow it."""
        if self._state.draining:
            return Rejected(OVERLOADED)
        if self._state.latest is not None and now < self._state.latest - LEEWAY:
            return Rejected(CLOCK_WENT_BACK)
        catalog = self._state.policy.catalog
        if request.task_type not in catalog.task_types:
            return Rejected(NO_PERMIT)
        prepared = catalog.prepare_task(request.task_type, request.parameters)
        wrong = prepared if isinstance(prepared, Denial) else None
        parameters = catalog.blank_parameters(request.task_type) if isinstance(prepared, Denial) else prepared
        task_id = ulid(now, self._entropy(ULID_RANDOM_BYTES))
        facts = TaskFacts(task_id, request.task_type, request.workload, parameters.values)
        verdict = decide_assign(self._state, facts, peer, now)
        if isinstance(verdict, Rejected):
            # What is wrong with its parameters learns only who could assign this type at all (invariant 12).
            return verdict if wrong is None else Rejected(NO_PERMIT)
        if wrong is not None:
            return Rejected(Refused(wrong.code, wrong.reason, wrong.next, wrong.argument))
        return parameters, verdict

    def _known(self, wanted: Assignment) -> Assignment | None:
        pending = self._pending.get(wanted.ticket_sha256)
        known = pending[0] if pending is not None else self._state.assignment_of(wanted.ticket_sha256)
        if known is not None and not known.says_the_same(wanted):
            raise AssignmentExistsError("the ticket stands for another assignment: make a new one of 32 random bytes")
        return known

    def _full(self, dispatcher: str) -> Refused | None:
        if self._of[dispatcher] >= MAX_ASSIGNMENTS_EACH:
            reason = f"a dispatcher has at most {MAX_ASSIGNMENTS_EACH} assignments that have not expired."
            return limit(reason, "give them less time, or wait until some have expired.")
        return OVERLOADED if self._of.total() >= MAX_ASSIGNMENTS else None

    async def _make(self, wanted: Assignment, receipt: Receipt, decision_id: str) -> Assigned | Denial:
        try:
            await receipt.durable()
        except UnrecordedError:
            self._let_go(wanted)
            return denial(UNRECORDED, decision_id)
        finally:
            del self._pending[wanted.ticket_sha256]
        self._state.keep_assignment(wanted)
        self._expect_expiry(wanted)
        return Assigned(wanted.assignment_id, wanted.state.value)

    async def _answer(self, known: Assignment, decision_id: str) -> Assigned | Denial:
        pending = self._pending.get(known.ticket_sha256)
        if pending is not None:
            try:
                await pending[1].durable()
            except UnrecordedError:
                return denial(UNRECORDED, decision_id)
        return Assigned(known.assignment_id, self._state.assignments.get(known.assignment_id, known).state.value)

    def _expect_expiry(self, assignment: Assignment) -> None:
        self._deadlines.at(assignment.until, lambda: self._expire(assignment))

    def _expire(self, assignment: Assignment) -> None:
        self._state.forget_assignment(assignment.assignment_id)
        self._withdrawals.pop(assignment.assignment_id, None)
        self._let_go(assignment)

    def _let_go(self, assignment: Assignment) -> None:
        self._of[assignment.dispatcher] -= 1
        if not self._of[assignment.dispatcher]:
            del self._of[assignment.dispatcher]

    def _of_a_task(self, assignment_id: str) -> Assignment | None:
        """Of a task that outlives the time in which it could be opened."""
        held = (task.shared.assignment for task in self._state.tasks.values() if task.shared.assignment is not None)
        return next((one for one in held if one.assignment_id == assignment_id), None)

    async def _deny(
        self, peer: Peer, request: AssignTask, now: datetime, decision_id: str, rejected: Rejected
    ) -> Denial:
        refused = rejected.refused
        event = Event(
            EventType.ASSIGNMENT_DENIED,
            now,
            {
                **denied(refused, decision_id=decision_id),
                "task_type": request.task_type,
                "workload": request.workload,
                "dispatcher": str(peer.spiffe_id),
                "peer_method": peer.method,
                "policy": self._state.policy.digest,
                "revision": self._state.revision,
            },
        )
        if refused.code is not DenialCode.OVERLOADED:
            try:
                await self._journal.record(event).durable()
            except UnrecordedError:
                return denial(UNRECORDED, decision_id)
        return denial(refused, decision_id)
