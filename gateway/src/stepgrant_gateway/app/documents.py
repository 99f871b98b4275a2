"""What the ledger's inputs say of a decision: the intent, whom it is for, and what was seen beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from stepgrant.errors import Denial
from stepgrant.intent import Json, canonical
from stepgrant_gateway.app.authorizer import dispatcher_of, voucher_of
from stepgrant_gateway.app.open_tasks import Task
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import DeclareStep
from stepgrant_gateway.core.decision import Call, Permitted, Question
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.principal import Subject


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
        "parent": declared.parent_step_id or (None if task.origin is None else task.origin.step.key[1]),
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


def context_document(questions: Sequence[Question]) -> dict[str, Any]:
    """What the decision saw beside the intent, so that it can be replayed (invariant 14): with `chain`, for each of several."""
    question = questions[-1]
    seen: dict[str, Any] = {
        "labels": sorted(question.task.labels),
        "completed": sorted(question.task.completed),
        "reported": sorted(question.task.reported),
        "denials": question.task.denials,
        "age_ms": question.task.age // timedelta(milliseconds=1),
        "depth": question.step.depth,
        "parent_tool": question.step.parent_tool,
        **_by_workload(question),
        "vouched_by": question.vouched_by,
        "dispatcher": question.dispatcher,
        "now_ms": int(question.now.timestamp() * 1000),
    }
    if len(questions) > 1:
        seen["chain"] = [{"workload": asked.task.workload, **_by_workload(asked)} for asked in questions]
    return seen


def _by_workload(question: Question) -> dict[str, Any]:
    budget = {name: str(value) for name, value in question.budget.items()}
    return {"budget": budget, "peer_method": question.peer_method}


def opening_event(
    state: State, task: Task, permitted: Permitted, brings: frozenset[str], decision_id: str, now: datetime
) -> Event:
    """The opening of a task, or of a branch, which has its words and its subject from its task. `brings`: labels of memory."""
    data = {
        **task.named,
        "decision": decision_id,
        "task_type": task.task_type.name,
        "workload": task.workload,
        "peer_method": task.peer.method,
        "instance_jkt": task.instance_jkt.hex(),
        "labels": sorted(brings.union(task.shared.labels)),
        "policies": [permit.place.policy_id for permit in permitted.permits],
        "policy": state.policy.digest,
        "revision": state.revision,
        "expires_ms": int(task.expires_at.timestamp() * 1000),
    }
    if task.origin is not None:
        of = {"chain": list(task.chain), "step": task.origin.step.key[1]}
        return Event(EventType.BRANCH_OPENED, now, {**data, **of}, {"purpose": task.purpose})
    whose = {} if task.subject is None else {"subject": subject_id(task.subject)}
    return Event(
        EventType.TASK_OPENED,
        now,
        {**data, **_vouching(task), **whose},
        {
            "parameters": dict(task.parameters.values),
            "purpose": task.purpose,
            **subject_document(state, task.subject),
        },
        task.parameters.sensitive | state.policy.catalog.sensitive_claims,
    )


def _vouching(task: Task) -> dict[str, str]:
    """Who vouches for the task, as its record says it; a fold marks the assignment as taken by it."""
    said = {"vouched_by": voucher_of(task)}
    if task.shared.assignment is not None:
        said |= {"assignment": task.shared.assignment.assignment_id, "dispatcher": dispatcher_of(task)}
    return said
