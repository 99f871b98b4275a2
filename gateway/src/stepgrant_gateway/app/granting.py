"""Declares and renewals: decide, record, and only then mint (invariant 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import copy_context
from datetime import datetime
from typing import Any, Final

from stepgrant.errors import Denial, DenialCode, InvalidInputError, ProtocolError
from stepgrant.grant import LEEWAY
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.intent import Json
from stepgrant_gateway.app.answers import Answer, answered
from stepgrant_gateway.app.authorizer import Decided, Rejected, decide_step, place
from stepgrant_gateway.app.delivering import Delivery
from stepgrant_gateway.app.documents import context_document, intent_digest, intent_document, subject_document
from stepgrant_gateway.app.open_tasks import MAX_STEPS, LiveGrant, Step, Task
from stepgrant_gateway.app.refusals import CLOCK_WENT_BACK, UNRECORDED, USED_UP, denial, limit, over
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import DeclareStep, StepGranted
from stepgrant_gateway.core.budgets import Entry
from stepgrant_gateway.core.decision import NO_PERMIT, Call, Question, Refused
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.grants import LINGER, STEP_MAX_AGE
from stepgrant_gateway.core.observations import UNOBSERVED, Boundary, Course
from stepgrant_gateway.core.ports import Clock, Entropy, Journal, Observer, Receipt
from stepgrant_gateway.core.recorded import denied, granted
from stepgrant_gateway.core.steps import StepInput, StepState, advance

logger = logging.getLogger(__name__)

RUNS_OUT: Final = frozenset(
    {
        DenialCode.USES_EXHAUSTED,
        DenialCode.STEP_EXPIRING,
        DenialCode.TASK_EXPIRING,
        DenialCode.IDENTITY_EXPIRING,
        DenialCode.SUBJECT_EXPIRING,
        DenialCode.PARENT_ENDED,
        DenialCode.UNRECORDED,
    }
)
"""Renewals refused for want of uses, age or record: the old grant runs out, the step is not revoked (invariant 6)."""


class StepExistsError(InvalidInputError):
    """Another intent was declared under this step id; nothing was decided."""

    code = "already_exists"


class Granting:
    """Gives out grants, one decision each."""

    def __init__(
        self, *, state: State, clock: Clock, entropy: Entropy, journal: Journal, endings: Endings, delivery: Delivery,
        observer: Observer = UNOBSERVED,
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._journal = journal
        self._endings = endings
        self._delivery = delivery
        self._observer = observer

    def declare(self, task: Task, declared: DeclareStep) -> Answer[StepGranted | Denial]:
        """The grant of a new step; the same intent under the same id gets the same grant, never another.

        Decided, and given to the ledger, when this returns; the answer is there once that is durable.

        Raises:
            StepExistsError: another intent stands under this id.
        """
        began = self._clock.monotonic()
        call = self._prepare(task, declared)
        document = intent_document(task, declared, call if isinstance(call, Call) else None)
        sha256 = intent_digest(document, declared)
        known = task.shared.steps.get(declared.step_id)
        if known is not None:
            return _again(task, known, sha256)
        if len(task.shared.steps) >= MAX_STEPS:
            full = limit(f"a task has at most {MAX_STEPS} steps.", "open another task.")
            return answered(denial(full, "", declared.step_id))
        now = self._clock.now()
        step = Step(
            (task.task_id, declared.step_id), task.key, declared, sha256, now, StepState.DECLARED, 1, None, task.peer
        )
        known_tool = "" if call is NO_PERMIT else declared.tool
        step.course = Course(Boundary.DECLARE, began, task.task_id, declared.step_id, known_tool)
        task.shared.steps[declared.step_id] = step
        step.first_answer = answer = self._answer(task, step, call, now, document)
        return answer

    def renew(self, task: Task, step_id: str) -> Answer[StepGranted | Denial]:
        """A fresh grant of a live step by a fresh decision; the old one is dead once the new one is durable.

        Raises:
            ProtocolError: no such step was declared.
        """
        step = task.own_step(step_id)
        if step is None:
            raise ProtocolError(f"step {step_id} was not declared in this task")
        if not step.live or step.call is None or step.held.answer is None:
            return answered(over(step))
        if self._delivery.overdue(task, step):
            return answered(over(step))
        if step.renewing:
            return answered(denial(limit("a renewal of this step is under way.", "wait for its answer."), "", step_id))
        step.course = Course(Boundary.RENEW, self._clock.monotonic(), task.task_id, step_id, step.declared.tool)
        # Prepared anew: the catalog may have changed in ways that let the step live (invariant 6).
        call = self._prepare(task, step.declared)
        if isinstance(call, Refused):
            return self._not_renewed(task, step, Rejected(call), None)
        decided = self._decide(task, step, call, self._clock.now())
        if isinstance(decided, Rejected):
            return self._not_renewed(task, step, decided, call)
        return self._renew(task, step, call, decided)

    def _not_renewed(
        self, task: Task, step: Step, rejected: Rejected, call: Call | None
    ) -> Answer[StepGranted | Denial]:
        refused, document = rejected.refused, intent_document(task, step.declared, call)
        if refused.code not in RUNS_OUT:
            self._endings.end_step(
                task, step, StepInput.REVOKE, code=refused.code.value, reason=refused.reason, by="gateway"
            )
        return self._deny(task, step, rejected, document, call, renewal=True)

    def _prepare(self, task: Task, declared: DeclareStep) -> Call | Refused:
        policy = self._state.policy
        if declared.tool not in policy.catalog.tools or declared.tool not in policy.tools_for(task.task_type.name):
            return NO_PERMIT
        call = policy.catalog.prepare_call(declared.tool, declared.arguments)
        return Refused(call.code, call.reason, call.next, call.argument) if isinstance(call, Denial) else call

    def _answer(
        self, task: Task, step: Step, call: Call | Refused, now: datetime, document: dict[str, Json]
    ) -> Answer[StepGranted | Denial]:
        if isinstance(call, Refused):
            return self._deny(task, step, Rejected(call), document, None)
        misplaced = place(task, step, call)
        decided = self._decide(task, step, call, now) if misplaced is None else Rejected(misplaced)
        if isinstance(decided, Rejected):
            return self._deny(task, step, decided, document, call)
        return self._grant(task, step, call, decided, document)

    def _decide(self, task: Task, step: Step, call: Call, now: datetime) -> Decided | Rejected:
        if self._state.latest is not None and now < self._state.latest - LEEWAY:
            return Rejected(CLOCK_WENT_BACK)
        if step.uses_left == 0:
            return Rejected(USED_UP)
        decided = decide_step(self._state, task, step, call, now)
        if step.course is not None:
            step.course.decided = self._clock.monotonic()
        return decided

    def _grant(
        self, task: Task, step: Step, call: Call, decided: Decided, document: dict[str, Json]
    ) -> Answer[StepGranted | Denial]:
        now = decided.at
        step.state, _ = advance(step.state, StepInput.GRANT)
        step.call, step.target, step.questions = call, call.target, decided.questions
        step.uses_left, step.ends_at = decided.terms.uses, now + STEP_MAX_AGE[decided.terms.tier]
        step.grant = grant = self._delivery.hold(task, step, call, decided)
        task.live[step.key[1]] = step
        task.linger = min(task.linger, LINGER[decided.terms.tier])
        for name, amount in call.deltas.items():
            for book in self._state.books_of(task, name):
                book.reserve(Entry(now, step.key, amount))
        self._bring(task, step, call, now)
        data = {
            **granted(call, decided.terms, decided.lifetime, grant_id=grant.grant_id, decision_id=grant.decision_id),
            "labels": sorted(call.tool.labels),
            "deltas": {name: str(amount) for name, amount in call.deltas.items()},
            **self._by_subject(call),
        }
        receipt = self._record(EventType.STEP_GRANTED, task, step, call, now, data, document, decided.questions)
        # Signed while the ledger is at it, and handed out once that is durable (invariant 3).
        signed = self._delivery.sign(task, step, call, grant)

        def conclude(lost: UnrecordedError | None) -> StepGranted | Denial:
            if lost is not None:
                return self._undelivered(task, step, call, grant, now)
            return self._delivery.deliver(task, step, call, grant, signed)

        return self._when_durable(receipt, step, now, conclude)

    def _by_subject(self, call: Call) -> dict[str, list[str]]:
        """Which of the deltas a fold counts for the subject; not said where there are none."""
        budgets = self._state.policy.catalog.budgets
        names = sorted(name for name in call.deltas if budgets[name].per == "subject")
        return {"by_subject": names} if names else {}

    def _renew(self, task: Task, step: Step, call: Call, decided: Decided) -> Answer[StepGranted | Denial]:
        old, new = step.held, self._delivery.hold(task, step, call, decided)
        data = {
            **granted(call, decided.terms, decided.lifetime, grant_id=new.grant_id, decision_id=new.decision_id),
            "superseded": old.grant_id,
        }
        document = intent_document(task, step.declared, call)
        now = decided.at
        receipt = self._record(EventType.STEP_RENEWED, task, step, call, now, data, document, decided.questions)

        def conclude(lost: UnrecordedError | None) -> StepGranted | Denial:
            step.renewing = False
            # The last use may have been taken while this waited for the ledger.
            if lost is not None or not step.live or step.uses_left == 0:
                self._delivery.drop(new)
                if lost is None and not step.live:
                    return over(step)
                return denial(USED_UP if lost is None else UNRECORDED, new.decision_id, step.key[1])
            step.state, _ = advance(step.state, StepInput.RENEW)
            old.deadline.cancel()
            step.grant, step.call, step.questions = new, call, decided.questions
            # The old one first: if signing fails, nothing else would ever end it.
            self._endings.kill_grant(old, "superseded")
            return self._delivery.deliver(task, step, call, new, self._delivery.sign(task, step, call, new))

        # Until it is concluded, which may be at once: whatever failed before must not leave it so.
        step.renewing = True
        return self._when_durable(receipt, step, now, conclude)

    def _bring(self, task: Task, step: Step, call: Call, now: datetime) -> None:
        """The labels of the tool are seen by every other step from now on, and may end live ones (invariant 7)."""
        # With two sources every step sees a label already; with fewer, some live step may see it for the first time.
        fresh = [label for label in call.tool.labels if len(task.shared.labels.get(label, ())) < 2]
        for label in call.tool.labels:
            task.shared.labels.setdefault(label, set()).add(step.key[1])
        if call.tool.labels:
            self._state.memory.remember(task.workload, task.instance_jkt, call.tool.labels, now)
        if fresh:
            self._endings.reconsider(task.family(), cause="label", by="gateway", spare=step)

    def _undelivered(self, task: Task, step: Step, call: Call, grant: LiveGrant, now: datetime) -> Denial:
        """The decision is not on record: the step ends, and what it had reserved is given back."""
        for name in call.deltas.keys() & self._state.policy.catalog.budgets.keys():
            for book in self._state.books_of(task, name):
                book.give_back(Entry(now, step.key, call.deltas[name]))
        for label in call.tool.labels:
            task.shared.labels[label].discard(step.key[1])
            if not task.shared.labels[label]:
                del task.shared.labels[label]
        if step.live:
            self._endings.end_step(
                task, step, StepInput.REVOKE, code="undelivered", reason=UNRECORDED.reason, by="gateway"
            )
        return denial(UNRECORDED, grant.decision_id, step.key[1])

    def _deny(
        self, task: Task, step: Step, rejected: Rejected, document: dict[str, Json], call: Call | None, *,
        renewal: bool = False,
    ) -> Answer[StepGranted | Denial]:  # fmt: skip
        refused, decision_id = rejected.refused, ulid(self._clock.now(), self._entropy(ULID_RANDOM_BYTES))
        task.shared.denials += 1
        if not renewal:
            step.state, _ = advance(step.state, StepInput.DENY)
            step.code, step.reason = refused.code.value, refused.reason
            step.slim()
        data = {"tool": step.declared.tool, "renewal": renewal, **denied(refused, decision_id=decision_id)}
        now = rejected.questions[-1].now if rejected.questions else self._clock.now()
        receipt = self._record(EventType.STEP_DENIED, task, step, call, now, data, document, rejected.questions)

        def conclude(lost: UnrecordedError | None) -> Denial:
            return denial(refused if lost is None else UNRECORDED, decision_id, step.key[1])

        return self._when_durable(receipt, step, now, conclude)

    def _record(
        self, kind: EventType, task: Task, step: Step, call: Call | None, now: datetime, data: dict[str, Any],
        document: dict[str, Json], questions: tuple[Question, ...],
    ) -> Receipt:  # fmt: skip
        """Gives the decision to the ledger."""
        whole = {
            **task.named,
            "step": step.key[1],
            **({} if task.origin is None else {"chain": list(task.chain)}),
            "parent": step.parent.key[1] if step.parent is not None else None,
            **data,
            "policy": self._state.policy.digest,
            "revision": self._state.revision,
        }
        context = {"context": context_document(questions)} if questions else {}
        context |= subject_document(self._state, task.subject)
        # What does not fit the tool's schema could be anything, so its values are kept as keyed digests only.
        arguments = document["arguments"]
        unknown = call.sensitive if call is not None else frozenset(arguments if isinstance(arguments, dict) else ())
        sensitive = task.parameters.sensitive | unknown | self._state.policy.catalog.sensitive_claims
        event = Event(kind, now, whole, {**document, **context}, sensitive)
        return self._journal.record(event)

    def _when_durable(
        self,
        receipt: Receipt,
        step: Step,
        now: datetime,
        conclude: Callable[[UnrecordedError | None], StepGranted | Denial],
    ) -> Answer[StepGranted | Denial]:
        """What `conclude` makes of it once the decision is on record, or will not be."""
        answer: Answer[StepGranted | Denial] = Answer()
        course, step.course = step.course, None
        context = copy_context()  # The spans of a decision belong to the trace of its stream.

        def recorded(lost: UnrecordedError | None) -> None:
            try:
                if lost is None:
                    self._state.latest = max(now, self._state.latest or now)
                    if course is not None:
                        course.recorded = self._clock.monotonic()
                concluded = conclude(lost)
                if course is not None:
                    context.run(self._observe, course, concluded)
            except Exception as failure:  # noqa: BLE001 - whoever waits has to hear of it, and others hear of the ledger after this
                answer.set_exception(failure)
            else:
                answer.set_result(concluded)

        receipt.then(recorded)
        return answer

    def _observe(self, course: Course, answer: StepGranted | Denial) -> None:
        code = answer.code.value if isinstance(answer, Denial) else ""
        self._observer.decided(course, code, self._clock.monotonic())
        if logger.isEnabledFor(logging.DEBUG):
            ids = {"task": course.task_id, "step": course.step_id, "decision": answer.decision_id}
            logger.debug("%s: %s", course.boundary.value, code or "granted", extra={"event": "decided", **ids})


def _again(task: Task, step: Step, sha256: bytes) -> Answer[StepGranted | Denial]:
    if step.of != task.key or step.intent_sha256 != sha256:
        raise StepExistsError(f"step {step.key[1]} was declared with another intent: use a new id")
    if step.live and step.held.answer is not None:
        return answered(step.held.answer)
    return answered(over(step)) if step.first_answer is None else step.first_answer
