"""Decides at a boundary: locks, then policy, then terms. Reads the state, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from stepgrant.errors import DenialCode
from stepgrant_gateway.app.locking import locked
from stepgrant_gateway.app.open_tasks import MAX_LIVE_STEPS, MAX_STEP_DEPTH, Origin, Step, Task
from stepgrant_gateway.app.refusals import PARENT_NOT_LIVE, limit
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.decision import (
    BY_AGENT,
    BY_ASSIGNMENT,
    Call,
    HandingOn,
    Permitted,
    PermitTerms,
    Question,
    Refused,
    StepFacts,
    TaskFacts,
    Verdict,
    all_of,
    refuse_uncounted,
    refuse_unheld,
)
from stepgrant_gateway.core.delegation import contains, violation
from stepgrant_gateway.core.grants import Bound, Lifetime, Terms, bound_lifetime, settle_terms
from stepgrant_gateway.core.principal import Peer, Subject

_EXPIRING = {
    DenialCode.TASK_EXPIRING: "less than a second is left of the task's max_age. Close the task and open another.",
    DenialCode.IDENTITY_EXPIRING: "less than a second is left of the SVID of this stream. Open the task anew with the next one.",
    DenialCode.SUBJECT_EXPIRING: "less than a second is left of the subject's token. Open the task anew with the next one.",
    DenialCode.STEP_EXPIRING: "less than a second would be left of the step. Report it, and declare another.",
    DenialCode.PARENT_ENDED: "less than a second is left of the parent's grant. Renew the parent first.",
}


@dataclass(frozen=True, slots=True)
class Decided:
    """Yes: the terms, the times, and what the decision saw, for each workload of the chain."""

    terms: Terms
    lifetime: Lifetime
    questions: tuple[Question, ...]

    @property
    def at(self) -> datetime:
        """When it was decided."""
        return self.questions[-1].now


@dataclass(frozen=True, slots=True)
class Rejected:
    """No: what the agent learns and what only the operator does, and what the decision saw (empty = nothing was asked)."""

    refused: Refused
    questions: tuple[Question, ...] = ()


def voucher_of(task: Task) -> str:
    """Who vouches for the task's type and parameters."""
    return BY_AGENT if task.shared.assignment is None else BY_ASSIGNMENT


def dispatcher_of(task: Task) -> str:
    """SPIFFE ID of who assigned the task; empty if nobody did."""
    return "" if task.shared.assignment is None else task.shared.assignment.dispatcher


def facts(task: Task, now: datetime, *, without: str = "") -> TaskFacts:
    """What policy sees of the task; labels that step `without` alone brought are left out."""
    return TaskFacts(
        task_id=task.task_id,
        task_type=task.task_type.name,
        workload=task.workload,
        parameters=task.parameters.values,
        labels=task.labels_without(without),
        completed=frozenset(task.shared.completed),
        reported=frozenset(task.shared.reported),
        denials=task.shared.denials,
        age=max(now - task.root.opened_at, timedelta(0)),
    )


def decide_open(
    state: State, task: Task, now: datetime, peer: Peer, subject: Subject | None
) -> Permitted | Rejected:  # fmt: skip
    """Whether `peer` may open the task, or take it up again, on behalf of `subject` as its latest token says."""
    if task.origin is not None:
        remembered = state.remembered(task.task_type, task.workload, task.instance_jkt, now)
        return decide_hand_off(state, task.origin, task.links(peer), now, remembered=remembered)
    question = replace(_whole(state, task, peer, now), subject=subject)
    return decide_whole(state, question, locked(state, task, tool=None, target=None))


def decide_hand_off(
    state: State, origin: Origin, links: Iterable[tuple[Task, Peer]], now: datetime, *,
    remembered: frozenset[str] = frozenset(),
) -> Permitted | Rejected:  # fmt: skip
    """Whether each of `links` may have part in handing this step on: once for each, and all must allow (design 3).

    `remembered`: labels that the receiver would bring from its earlier tasks.
    """
    giver, step, receiver = origin.giver, origin.step, origin.hand_off.receiver
    about = HandingOn(giver.workload, receiver, step.declared.tool)
    where = _place_of(step, (*giver.chain, receiver))
    permits: dict[PermitTerms, None] = {}
    for link, peer in links:
        question = replace(_whole(state, link, peer, now), step=where, handing_on=about)
        seen = replace(question.task, labels=question.task.labels | remembered)
        refused = locked(state, link, tool=None, target=None)
        verdict = decide_whole(state, replace(question, task=seen), refused)
        if isinstance(verdict, Rejected):
            return replace(verdict, refused=_said_of(verdict.refused, link.workload))
        permits.update(dict.fromkeys(verdict.permits))
    return Permitted(tuple(permits))


def _whole(state: State, task: Task, peer: Peer, now: datetime) -> Question:
    budget = {name: state.book(task, name).spent(now, ("", "")) for name in state.policy.catalog.budgets}
    return Question(
        facts(task, now), StepFacts(), None, budget, peer.method, now, voucher_of(task), task.subject,
        dispatcher_of(task),
    )  # fmt: skip


def decide_whole(state: State, question: Question, refused: Refused | None) -> Permitted | Rejected:
    """What policy says of a task as a whole, unless a lock has `refused` it."""
    verdict = state.policy.evaluate(question)
    if refused is not None and not (isinstance(verdict, Refused) and verdict.code is DenialCode.NO_PERMIT):
        # Who may not open, or assign, this type does not learn that it is locked, nor why (invariant 12).
        return Rejected(refused, (question,))
    return verdict if isinstance(verdict, Permitted) else Rejected(verdict, (question,))


def place(task: Task, step: Step, call: Call) -> Refused | None:
    """Puts the step under its parent and within every ancestor's envelope (invariant 9), or says why not.

    In a branch, a step that names no parent belongs to the one that was handed on.
    """
    declared = step.declared
    if task.count_live() >= MAX_LIVE_STEPS:
        return limit(f"a task has at most {MAX_LIVE_STEPS} live steps.", "report one first.")
    parent = None if task.origin is None else task.origin.step
    if declared.parent_step_id is not None:
        parent = task.own_step(declared.parent_step_id)
        if parent is None:
            return PARENT_NOT_LIVE
    if parent is not None:
        if not parent.live:
            return PARENT_NOT_LIVE
        step.parent, step.depth = parent, parent.depth + 1
        if step.depth > MAX_STEP_DEPTH:
            return limit(f"steps nest at most {MAX_STEP_DEPTH} deep.", "call the tool from further up.")
    for origin in task.lineage():
        outside = violation(origin.hand_off.envelope, call.tool.name, call.arguments)
        if outside is not None:
            return Refused(DenialCode.OUTSIDE_ENVELOPE, outside + ".", "stay within what was handed on.")
    for ancestor in step.ancestors():
        outside = (
            "the step that this one belongs to may have no children"
            if ancestor.envelope is None
            else violation(ancestor.envelope, call.tool.name, call.arguments)
        )
        if outside is not None:
            return Refused(DenialCode.OUTSIDE_ENVELOPE, outside + ".", "stay within the parent's envelope.")
    step.envelope = call.envelope
    if declared.envelope is not None:
        if call.envelope is None or not contains(call.envelope, declared.envelope):
            reason = "the declared envelope allows more than `calls:` of the catalog does."
            return Refused(DenialCode.OUTSIDE_ENVELOPE, reason, "declare a narrower one, or none.")
        step.envelope = declared.envelope
    return None


def decide_step(state: State, task: Task, step: Step, call: Call, now: datetime) -> Decided | Rejected:
    """Whether the step gets a grant now, and on which terms. The same for a first grant and for a renewal."""
    refused = locked(state, task, tool=call.tool.name, target=call.target)
    if refused is None:
        refused = refuse_uncounted(state.policy.catalog.budgets, call, task.subject)
    if refused is not None:
        return Rejected(refused)
    questions = _questions(state, task, step, call, now)
    verdict = all_of(_explained(state, question, call, several=len(questions) > 1) for question in questions)
    if isinstance(verdict, Refused):
        return Rejected(verdict, questions)
    unheld = refuse_unheld(call, step.peer.method)
    if unheld is not None:
        return Rejected(unheld, questions)
    terms = settle_terms(verdict, call, step.declared.wanted_ttl)
    lifetime = bound_lifetime(now, terms.ttl, _bounds(task, step))
    if isinstance(lifetime, DenialCode):
        reason, _, what_next = _EXPIRING[lifetime].partition(". ")
        return Rejected(Refused(lifetime, reason + ".", what_next), questions)
    return Decided(terms, lifetime, questions)


def _questions(state: State, task: Task, step: Step, call: Call, now: datetime) -> tuple[Question, ...]:
    """One for each workload of the chain, each time with only that one as the task's (design 3)."""
    where, voucher, dispatcher = _place_of(step, task.chain), voucher_of(task), dispatcher_of(task)
    return tuple(
        [
            Question(
                task=facts(link, now, without=step.key[1]),
                step=where,
                call=call,
                budget={
                    name: state.book(link, name).spent(now, step.key) + call.deltas.get(name, Decimal(0))
                    for name in state.policy.catalog.budgets
                },
                peer_method=peer.method,
                now=now,
                subject=task.subject,
                vouched_by=voucher,
                dispatcher=dispatcher,
            )
            for link, peer in task.links(step.peer)
        ]
    )


def _place_of(step: Step, chain: tuple[str, ...]) -> StepFacts:
    parent = None if step.parent is None else step.parent.declared.tool
    return StepFacts(step.depth, parent, frozenset(chain))


def reconsider(state: State, task: Task, step: Step) -> Refused | None:
    """None if the live step is still permitted, else why not (invariant 7).

    Evaluated with what the step's own decision recorded: its counts and sums, its time, and without its own labels.
    """
    if step.call is None or not step.questions or step.grant is None:
        return None
    catalog = state.policy.catalog
    tool = catalog.tools.get(step.declared.tool)
    if tool is None or task.task_type.name not in catalog.task_types:
        return Refused(DenialCode.TOOL_CHANGED, "the catalog no longer has this.", "declare another step.")
    call = catalog.prepare_call(step.declared.tool, step.declared.arguments)
    if not isinstance(call, Call) or call.tool.digest != step.call.tool.digest or call.target != step.call.target:
        return Refused(
            DenialCode.TOOL_CHANGED, "the catalog now says something else of this tool.", "declare it again."
        )
    if call.envelope != step.call.envelope:
        return Refused(DenialCode.TOOL_CHANGED, "the catalog now gives its children other bounds.", "declare it again.")
    refused = locked(state, task, tool=call.tool.name, target=call.target)
    if refused is None:
        refused = refuse_uncounted(catalog.budgets, call, task.subject)
    if refused is not None:
        return refused
    for asked in step.questions:
        budget = {name: asked.budget.get(name, call.deltas.get(name, Decimal(0))) for name in catalog.budgets}
        seen = replace(
            asked.task,
            labels=task.labels_without(step.key[1]),
            completed=frozenset(task.shared.completed),
            reported=frozenset(task.shared.reported),
            denials=task.shared.denials,
        )
        question = replace(asked, task=seen, call=call, budget=budget, subject=task.subject)
        verdict = state.policy.evaluate(question)
        if isinstance(verdict, Refused):
            return verdict
    if call.tier is not step.grant.terms.tier or call.tool.audience != step.call.tool.audience:
        return Refused(DenialCode.TOOL_CHANGED, "the tool's tier or audience has changed.", "declare it again.")
    return None


def _said_of(refused: Refused, workload: str) -> Refused:
    """The same, and the operator sees which workload of the chain it was."""
    return replace(refused, errors=(*refused.errors, f"refused for {workload}, one of the chain."))


def _explained(state: State, question: Question, call: Call, *, several: bool) -> Verdict:
    """The verdict; where only what was spent before stands in the way, it says so."""
    verdict = state.policy.evaluate(question)
    if several and isinstance(verdict, Refused):
        verdict = _said_of(verdict, question.task.workload)
    if isinstance(verdict, Permitted) or verdict.code not in {DenialCode.NO_PERMIT, DenialCode.FORBIDDEN}:
        return verdict
    alone = {name: call.deltas.get(name, Decimal(0)) for name in question.budget}
    spent = sorted(name for name, value in question.budget.items() if value != alone[name])
    if not spent or not isinstance(state.policy.evaluate(replace(question, budget=alone)), Permitted):
        return verdict
    reason = verdict.reason if verdict.code is DenialCode.FORBIDDEN else "a budget of this task or workload is used up."
    return replace(
        verdict,
        code=DenialCode.BUDGET_EXHAUSTED,
        reason=f"{reason} Spent already: {', '.join(spent)}.",
        next="ask for less, or ask the operator.",
        argument="",
    )


def _bounds(task: Task, step: Step) -> list[Bound]:
    # The task ends with its SVID and with its subject's token as well, and of two that are alike the first one names the denial.
    bounds = [
        Bound(step.peer.not_after, DenialCode.IDENTITY_EXPIRING),
        Bound(task.expires_at, DenialCode.TASK_EXPIRING),
    ]
    if task.subject is not None:
        bounds.insert(0, Bound(task.subject.expires_at, DenialCode.SUBJECT_EXPIRING))
    if step.ends_at is not None:
        bounds.append(Bound(step.ends_at, DenialCode.STEP_EXPIRING))
    bounds.extend(
        Bound(parent.grant.lifetime.expires_at, DenialCode.PARENT_ENDED)
        for parent in step.ancestors()
        if parent.grant is not None
    )
    return bounds
