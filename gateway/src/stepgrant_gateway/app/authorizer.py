"""Decides at a boundary: locks, then policy, then terms. Reads the state, changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from stepgrant.errors import Denial, DenialCode
from stepgrant.intent import Json, canonical
from stepgrant.selector import matches
from stepgrant_gateway.app.refusals import PARENT_NOT_LIVE, limit
from stepgrant_gateway.app.state import MAX_LIVE_STEPS, MAX_STEP_DEPTH, State, Step, Task
from stepgrant_gateway.core.boundary import DeclareStep
from stepgrant_gateway.core.decision import (
    BY_AGENT,
    BY_ASSIGNMENT,
    Call,
    Permitted,
    PolicyPlace,
    Question,
    Refused,
    StepFacts,
    TaskFacts,
    Verdict,
    refuse_uncounted,
    refuse_unheld,
)
from stepgrant_gateway.core.delegation import contains, violation
from stepgrant_gateway.core.grants import Bound, Lifetime, Terms, bound_lifetime, settle_terms
from stepgrant_gateway.core.principal import Peer, Subject
from stepgrant_gateway.core.revocation import Lock

_EXPIRING = {
    DenialCode.TASK_EXPIRING: "less than a second is left of the task's max_age. Close the task and open another.",
    DenialCode.IDENTITY_EXPIRING: "less than a second is left of the SVID of this stream. Open the task anew with the next one.",
    DenialCode.SUBJECT_EXPIRING: "less than a second is left of the subject's token. Open the task anew with the next one.",
    DenialCode.STEP_EXPIRING: "less than a second would be left of the step. Report it, and declare another.",
    DenialCode.PARENT_ENDED: "less than a second is left of the parent's grant. Renew the parent first.",
}


@dataclass(frozen=True, slots=True)
class Decided:
    """Yes: the terms, the times, and what the decision saw."""

    terms: Terms
    lifetime: Lifetime
    question: Question


@dataclass(frozen=True, slots=True)
class Rejected:
    """No: what the agent learns and what only the operator does, and what the decision saw (None = nothing was asked)."""

    refused: Refused
    question: Question | None = None


def locked(state: State, task: Task, *, tool: str | None, target: str | None) -> Refused | None:
    """The refusal of the first lock that matches, or None. Tool and target None: of the task itself."""
    lock = lock_on(state, task, tool=tool, target=target)
    return None if lock is None else lock_refusal(lock)


def lock_on(state: State, task: Task, *, tool: str | None, target: str | None) -> Lock | None:
    """The first lock in force that matches, or None: one on who assigned the task, too."""
    for lock in state.locks.values():
        if falls_under(lock, task, tool=tool, target=target) or locks_dispatcher(lock, task):
            return lock
    return None


def falls_under(lock: Lock, task: Task, *, tool: str | None, target: str | None) -> bool:
    """True if the lock matches a step of the task, or with tool and target None the task itself."""
    return matches(
        lock.selector, workload=task.workload, task_type=task.task_type.name, tool=tool, target=target,
        subject=task.on_behalf_of,
    )  # fmt: skip


def locks_dispatcher(lock: Lock, task: Task) -> bool:
    """True if the lock is on who assigned the task: on all of it, so not one that names a tool or a target."""
    return task.assignment is not None and matches(
        lock.selector, workload=task.assignment.dispatcher, task_type=task.task_type.name, tool=None, target=None,
        subject=task.on_behalf_of,
    )  # fmt: skip


def voucher_of(task: Task) -> str:
    """Who vouches for the task's type and parameters."""
    return BY_AGENT if task.assignment is None else BY_ASSIGNMENT


def dispatcher_of(task: Task) -> str:
    """SPIFFE ID of who assigned the task; empty if nobody did."""
    return "" if task.assignment is None else task.assignment.dispatcher


def lock_refusal(lock: Lock) -> Refused:
    """What a lock answers; the operator's record names it as forbid `lock:<id>`."""
    return Refused(
        DenialCode.LOCKED,
        f"an operator has locked this: {lock.reason}",
        "wait until the lock is lifted, or ask the operator.",
        places=(PolicyPlace(f"lock:{lock.lock_id}", "", 0),),
    )


def facts(task: Task, now: datetime, *, without: str = "") -> TaskFacts:
    """What policy sees of the task; labels that step `without` alone brought are left out."""
    return TaskFacts(
        task_id=task.task_id,
        task_type=task.task_type.name,
        workload=task.workload,
        parameters=task.parameters.values,
        labels=task.labels_without(without),
        completed=frozenset(task.completed),
        reported=frozenset(task.reported),
        denials=task.denials,
        age=max(now - task.opened_at, timedelta(0)),
    )


def decide_open(
    state: State, task: Task, now: datetime, peer: Peer, subject: Subject | None
) -> Permitted | Rejected:  # fmt: skip
    """Whether `peer` may open the task, or take it up again, on behalf of `subject` as its latest token says."""
    budget = {name: state.book(task, name).spent(now, ("", "")) for name in state.policy.catalog.budgets}
    question = Question(
        facts(task, now), StepFacts(), None, budget, peer.method, now, voucher_of(task), subject, dispatcher_of(task)
    )
    refused = locked(state, task, tool=None, target=None)
    return decide_whole(state, question, refused)


def decide_whole(state: State, question: Question, refused: Refused | None) -> Permitted | Rejected:
    """What policy says of a task as a whole, unless a lock has `refused` it."""
    verdict = state.policy.evaluate(question)
    if refused is not None and not (isinstance(verdict, Refused) and verdict.code is DenialCode.NO_PERMIT):
        # Who may not open, or assign, this type does not learn that it is locked, nor why (invariant 12).
        return Rejected(refused, question)
    return verdict if isinstance(verdict, Permitted) else Rejected(verdict, question)


def place(task: Task, step: Step, call: Call) -> Refused | None:
    """Puts the step under its parent and within every ancestor's envelope (invariant 9), or says why not."""
    declared = step.declared
    if len(task.live) >= MAX_LIVE_STEPS:
        return limit(f"a task has at most {MAX_LIVE_STEPS} live steps.", "report one first.")
    if declared.parent_step_id is not None:
        parent = task.steps.get(declared.parent_step_id)
        if parent is None or not parent.live:
            return PARENT_NOT_LIVE
        step.parent, step.depth = parent, parent.depth + 1
        if step.depth > MAX_STEP_DEPTH:
            return limit(f"steps nest at most {MAX_STEP_DEPTH} deep.", "call the tool from further up.")
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
    question = Question(
        task=facts(task, now, without=step.key[1]),
        step=StepFacts(
            depth=step.depth,
            parent_tool=step.parent.declared.tool if step.parent is not None else None,
            chain=frozenset({task.workload}),
        ),
        call=call,
        budget={
            name: state.book(task, name).spent(now, step.key) + call.deltas.get(name, Decimal(0))
            for name in state.policy.catalog.budgets
        },
        peer_method=step.peer.method,
        now=now,
        subject=task.subject,
        vouched_by=voucher_of(task),
        dispatcher=dispatcher_of(task),
    )
    verdict = _explained(state, question, call)
    if isinstance(verdict, Refused):
        return Rejected(verdict, question)
    unheld = refuse_unheld(call, step.peer.method)
    if unheld is not None:
        return Rejected(unheld, question)
    terms = settle_terms(verdict, call, step.declared.wanted_ttl)
    lifetime = bound_lifetime(now, terms.ttl, _bounds(task, step))
    if isinstance(lifetime, DenialCode):
        reason, _, what_next = _EXPIRING[lifetime].partition(". ")
        return Rejected(Refused(lifetime, reason + ".", what_next), question)
    return Decided(terms, lifetime, question)


def reconsider(state: State, task: Task, step: Step) -> Refused | None:
    """None if the live step is still permitted, else why not (invariant 7).

    Evaluated with what the step's own decision recorded: its counts and sums, its time, and without its own labels.
    """
    if step.call is None or step.question is None or step.grant is None:
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
    budget = {name: step.question.budget.get(name, call.deltas.get(name, Decimal(0))) for name in catalog.budgets}
    seen = replace(
        step.question.task,
        labels=task.labels_without(step.key[1]),
        completed=frozenset(task.completed),
        reported=frozenset(task.reported),
        denials=task.denials,
    )
    question = replace(step.question, task=seen, call=call, budget=budget, subject=task.subject)
    verdict = state.policy.evaluate(question)
    if isinstance(verdict, Refused):
        return verdict
    if call.tier is not step.grant.terms.tier or call.tool.audience != step.call.tool.audience:
        return Refused(DenialCode.TOOL_CHANGED, "the tool's tier or audience has changed.", "declare it again.")
    return None


def subject_document(state: State, subject: Subject | None) -> dict[str, Any]:
    """What the ledger's input says of a subject: who, and the declared claims; nothing where there is none."""
    if subject is None:
        return {}
    claims = state.policy.catalog.prepare_subject(subject)
    return {"subject": subject_id(subject), "claims": {} if isinstance(claims, Denial) else dict(claims)}


def subject_id(subject: Subject) -> dict[str, str]:
    """`iss` and `sub`, as records and grants say them."""
    return {"iss": subject.id.issuer, "sub": subject.id.subject}


def intent_document(task: Task, declared: DeclareStep, call: Call | None) -> dict[str, Json]:
    """The intent, as its digest and the ledger's input take it (design 3)."""
    wanted = declared.wanted_ttl
    return {
        "v": Decimal(1),
        "task": task.task_id,
        "step": declared.step_id,
        "parent": declared.parent_step_id,
        "workload": task.workload,
        "task_type": task.task_type.name,
        "parameters": dict(task.parameters.values),
        "tool": declared.tool,
        "tool_digest": call.tool.digest.hex() if call is not None else None,
        "target": call.target if call is not None else None,
        "arguments": dict(declared.arguments),
        "purpose": declared.purpose,
        "wanted_ttl": None if wanted is None else Decimal(wanted // timedelta(milliseconds=1)),
    }


def intent_digest(document: Mapping[str, Json], declared: DeclareStep) -> bytes:
    """SHA-256 over JCS of the intent document: 32 bytes. An explicit envelope is part of what was asked."""
    envelope = repr(declared.envelope).encode() if declared.envelope is not None else b""
    return hashlib.sha256(canonical(dict(document)) + envelope).digest()


def context_document(question: Question) -> dict[str, Any]:
    """What the decision saw beside the intent, so that it can be replayed (invariant 14)."""
    return {
        "labels": sorted(question.task.labels),
        "completed": sorted(question.task.completed),
        "reported": sorted(question.task.reported),
        "denials": question.task.denials,
        "age_ms": question.task.age // timedelta(milliseconds=1),
        "depth": question.step.depth,
        "parent_tool": question.step.parent_tool,
        "budget": {name: str(value) for name, value in question.budget.items()},
        "peer_method": question.peer_method,
        "vouched_by": question.vouched_by,
        "dispatcher": question.dispatcher,
        "now_ms": int(question.now.timestamp() * 1000),
    }


def _explained(state: State, question: Question, call: Call) -> Verdict:
    """The verdict; where only what was spent before stands in the way, it says so."""
    verdict = state.policy.evaluate(question)
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
