"""Declares and renewals: decide, record, and only then mint (invariant 3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Final

from stepgrant.errors import Denial, DenialCode, InvalidInputError, ProtocolError
from stepgrant.grant import LEEWAY
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.intent import Json
from stepgrant_gateway.app.authorizer import (
    Decided,
    Rejected,
    context_document,
    decide_step,
    intent_digest,
    intent_document,
    place,
)
from stepgrant_gateway.app.delivering import Delivery
from stepgrant_gateway.app.refusals import CLOCK_WENT_BACK, UNRECORDED, USED_UP, denial, limit, over
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import MAX_STEPS, LiveGrant, State, Step, Task
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

    def declare(self, task: Task, declared: DeclareStep) -> Awaitable[StepGranted | Denial]:
        """The grant of a new step; the same intent under the same id gets the same grant, never another.

        Decided, and given to the ledger, when this returns; what is awaited is that it is durable.

        Raises:
            StepExistsError: another intent stands under this id.
        """
        began = self._clock.monotonic()
        call = self._prepare(task, declared)
        document = intent_document(task, declared, call if isinstance(call, Call) else None)
        sha256 = intent_digest(document, declared)
        known = task.steps.get(declared.step_id)
        if known is not None:
            return self._again(known, sha256)
        if len(task.steps) >= MAX_STEPS:
            full = limit(f"a task has at most {MAX_STEPS} steps.", "open another task.")
            return _said(denial(full, "", declared.step_id))
        now = self._clock.now()
        step = Step((task.task_id, declared.step_id), declared, sha256, now, StepState.DECLARED, 1, None, task.peer)
        known_tool = "" if call is NO_PERMIT else declared.tool
        step.course = course = Course(Boundary.DECLARE, began, task.task_id, declared.step_id, known_tool)
        step.first_answer = asyncio.get_running_loop().create_future()
        task.steps[declared.step_id] = step
        try:
            rest = self._answer(task, step, call, now, document)
        except BaseException:
            step.first_answer.cancel()
            raise
        return self._first_answer(step, step.first_answer, course, rest)

    async def _first_answer(
        self, step: Step, first: asyncio.Future[StepGranted | Denial], course: Course,
        rest: Awaitable[StepGranted | Denial],
    ) -> StepGranted | Denial:  # fmt: skip
        try:
            answer = await rest
            first.set_result(answer)
            self._answered(step, course, answer)
            if isinstance(answer, StepGranted):
                step.first_answer = None  # It holds the token, which must not stay longer than the step.
            return answer
        finally:
            first.cancel()

    async def renew(self, task: Task, step_id: str) -> StepGranted | Denial:
        """A fresh grant of a live step by a fresh decision; the old one is dead once the new one is durable.

        Raises:
            ProtocolError: no such step was declared.
        """
        step = task.steps.get(step_id)
        if step is None:
            raise ProtocolError(f"step {step_id} was not declared in this task")
        if not step.live or step.call is None or step.held.answer is None:
            return over(step)
        if self._delivery.overdue(task, step):
            return over(step)
        if step.renewing:
            return denial(limit("a renewal of this step is under way.", "wait for its answer."), "", step_id)
        step.course = course = Course(
            Boundary.RENEW, self._clock.monotonic(), task.task_id, step_id, step.declared.tool
        )
        answer = await self._renewed(task, step)
        self._answered(step, course, answer)
        return answer

    async def _renewed(self, task: Task, step: Step) -> StepGranted | Denial:
        # Prepared anew: the catalog may have changed in ways that let the step live (invariant 6).
        call = self._prepare(task, step.declared)
        if isinstance(call, Refused):
            return await self._not_renewed(task, step, Rejected(call), None)
        decided = self._decide(task, step, call, self._clock.now())
        if isinstance(decided, Rejected):
            return await self._not_renewed(task, step, decided, call)
        step.renewing = True
        try:
            return await self._renew(task, step, call, decided, intent_document(task, step.declared, call))
        finally:
            step.renewing = False

    async def _not_renewed(self, task: Task, step: Step, rejected: Rejected, call: Call | None) -> Denial:
        refused, document = rejected.refused, intent_document(task, step.declared, call)
        if refused.code not in RUNS_OUT:
            self._endings.end_step(
                task, step, StepInput.REVOKE, code=refused.code.value, reason=refused.reason, by="gateway"
            )
        return await self._deny(task, step, rejected, document, call, renewal=True)

    def _prepare(self, task: Task, declared: DeclareStep) -> Call | Refused:
        policy = self._state.policy
        if declared.tool not in policy.catalog.tools or declared.tool not in policy.tools_for(task.task_type.name):
            return NO_PERMIT
        call = policy.catalog.prepare_call(declared.tool, declared.arguments)
        return Refused(call.code, call.reason, call.next, call.argument) if isinstance(call, Denial) else call

    def _answer(
        self, task: Task, step: Step, call: Call | Refused, now: datetime, document: dict[str, Json]
    ) -> Awaitable[StepGranted | Denial]:
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

    def _answered(self, step: Step, course: Course, answer: StepGranted | Denial) -> None:
        if step.course is course:
            step.course = None
        code = answer.code.value if isinstance(answer, Denial) else ""
        self._observer.decided(course, code, self._clock.monotonic())
        if logger.isEnabledFor(logging.DEBUG):
            ids = {"task": course.task_id, "step": course.step_id, "decision": answer.decision_id}
            logger.debug("%s: %s", course.boundary.value, code or "granted", extra={"event": "decided", **ids})

    def _grant(
        self, task: Task, step: Step, call: Call, decided: Decided, document: dict[str, Json]
    ) -> Awaitable[StepGranted | Denial]:
        now = decided.question.now
        step.state, _ = advance(step.state, StepInput.GRANT)
        step.call, step.target, step.question = call, call.target, decided.question
        step.uses_left, step.ends_at = decided.terms.uses, now + STEP_MAX_AGE[decided.terms.tier]
        step.grant = grant = self._delivery.hold(task, step, call, decided)
        task.live[step.key[1]] = step
        task.linger = min(task.linger, LINGER[decided.terms.tier])
        for name, amount in call.deltas.items():
            self._state.book(task, name).reserve(Entry(now, step.key, amount))
        self._bring(task, step, call, now)
        data = {
            **granted(call, decided.terms, decided.lifetime, grant_id=grant.grant_id, decision_id=grant.decision_id),
            "labels": sorted(call.tool.labels),
            "deltas": {name: str(amount) for name, amount in call.deltas.items()},
        }
        recorded = self._record(EventType.STEP_GRANTED, task, step, call, data, document, decided.question)
        return self._granted(task, step, call, grant, now, recorded)

    async def _granted(
        self, task: Task, step: Step, call: Call, grant: LiveGrant, now: datetime, recorded: Awaitable[None]
    ) -> StepGranted | Denial:
        try:
            await recorded
        except UnrecordedError:
            return self._undelivered(task, step, call, grant, now)
        return self._delivery.deliver(task, step, call, grant)

    async def _renew(
        self, task: Task, step: Step, call: Call, decided: Decided, document: dict[str, Json]
    ) -> StepGranted | Denial:
        old, new = step.held, self._delivery.hold(task, step, call, decided)
        data = {
            **granted(call, decided.terms, decided.lifetime, grant_id=new.grant_id, decision_id=new.decision_id),
            "superseded": old.grant_id,
        }
        try:
            await self._record(EventType.STEP_RENEWED, task, step, call, data, document, decided.question)
        except BaseException as error:
            self._delivery.drop(new)
            if not isinstance(error, UnrecordedError):
                raise
            return denial(UNRECORDED, new.decision_id, step.key[1])
        if not step.live:
            self._delivery.drop(new)
            return over(step)
        if step.uses_left == 0:
            # The last use was taken while this waited for the ledger.
            self._delivery.drop(new)
            return denial(USED_UP, new.decision_id, step.key[1])
        step.state, _ = advance(step.state, StepInput.RENEW)
        old.deadline.cancel()
        step.grant, step.call, step.question = new, call, decided.question
        # The old one first: if minting fails, nothing else would ever end it.
        self._endings.kill_grant(old, "superseded")
        return self._delivery.deliver(task, step, call, new)

    def _bring(self, task: Task, step: Step, call: Call, now: datetime) -> None:
        """The labels of the tool are seen by every other step from now on, and may end live ones (invariant 7)."""
        # With two sources every step sees a label already; with fewer, some live step may see it for the first time.
        fresh = [label for label in call.tool.labels if len(task.labels.get(label, ())) < 2]
        for label in call.tool.labels:
            task.labels.setdefault(label, set()).add(step.key[1])
        if call.tool.labels:
            self._state.memory.remember(task.workload, task.instance_jkt, call.tool.labels, now)
        if fresh:
            self._endings.reconsider([task], cause="label", by="gateway", spare=step)

    def _undelivered(self, task: Task, step: Step, call: Call, grant: LiveGrant, now: datetime) -> Denial:
        """The decision is not on record: the step ends, and what it had reserved is given back."""
        for name in call.deltas.keys() & self._state.policy.catalog.budgets.keys():
            self._state.book(task, name).give_back(Entry(now, step.key, call.deltas[name]))
        for label in call.tool.labels:
            task.labels[label].discard(step.key[1])
            if not task.labels[label]:
                del task.labels[label]
        if step.live:
            self._endings.end_step(
                task, step, StepInput.REVOKE, code="undelivered", reason=UNRECORDED.reason, by="gateway"
            )
        return denial(UNRECORDED, grant.decision_id, step.key[1])

    def _deny(
        self, task: Task, step: Step, rejected: Rejected, document: dict[str, Json], call: Call | None, *,
        renewal: bool = False,
    ) -> Awaitable[Denial]:  # fmt: skip
        refused, decision_id = rejected.refused, ulid(self._clock.now(), self._entropy(ULID_RANDOM_BYTES))
        task.denials += 1
        if not renewal:
            step.state, _ = advance(step.state, StepInput.DENY)
            step.code, step.reason = refused.code.value, refused.reason
            step.slim()
        data = {"tool": step.declared.tool, "renewal": renewal, **denied(refused, decision_id=decision_id)}
        recorded = self._record(EventType.STEP_DENIED, task, step, call, data, document, rejected.question)
        return _denied(denial(refused, decision_id, step.key[1]), recorded)

    def _record(
        self, kind: EventType, task: Task, step: Step, call: Call | None, data: dict[str, Any],
        document: dict[str, Json], question: Question | None,
    ) -> Awaitable[None]:  # fmt: skip
        """Gives the decision to the ledger; what is awaited is that it is durable.

        Raises, when awaited:
            UnrecordedError: it is not, and will not be.
        """
        whole = {
            "task": task.task_id,
            "step": step.key[1],
            "parent": step.parent.key[1] if step.parent is not None else None,
            **data,
            "policy": self._state.policy.digest,
            "revision": self._state.revision,
        }
        context = {"context": context_document(question)} if question is not None else {}
        # What does not fit the tool's schema could be anything, so its values are kept as keyed digests only.
        arguments = document["arguments"]
        unknown = call.sensitive if call is not None else frozenset(arguments if isinstance(arguments, dict) else ())
        now = question.now if question is not None else self._clock.now()
        event = Event(kind, now, whole, {**document, **context}, task.parameters.sensitive | unknown)
        return self._durable(step, now, self._journal.record(event))

    async def _durable(self, step: Step, now: datetime, receipt: Receipt) -> None:
        await receipt.durable()
        if step.course is not None:
            step.course.recorded = self._clock.monotonic()
        self._state.latest = max(now, self._state.latest or now)

    async def _again(self, step: Step, sha256: bytes) -> StepGranted | Denial:
        if step.intent_sha256 != sha256:
            raise StepExistsError(f"step {step.key[1]} was declared with another intent: use a new id")
        first = step.first_answer
        answer = await asyncio.shield(first) if first is not None and not first.cancelled() else None
        if step.live and step.held.answer is not None:
            return step.held.answer
        return answer if isinstance(answer, Denial) else over(step)


async def _denied(answer: Denial, recorded: Awaitable[None]) -> Denial:
    try:
        await recorded
    except UnrecordedError:
        return denial(UNRECORDED, answer.decision_id, answer.step_id)
    return answer


async def _said(answer: Denial) -> Denial:
    return answer
