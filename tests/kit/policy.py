"""The support desk's policy directory, and the questions that tests ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from stepgrant.errors import Denial
from stepgrant.intent import from_python
from stepgrant_gateway.core.decision import HandingOn, Question, StepFacts, TaskFacts
from stepgrant_gateway.policy.directory import read_directory
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit.clock import START

SUPPORT = Path(__file__).parents[2] / "examples" / "demo" / "policy"
AGENT = "spiffe://dev.stepgrant.test/agent/support"
ORDER = "ord_00000042"
CUSTOMER = "jo@x.org"
TASK_ID = "01JGH3Z5R0000000000000TASK"
REFUND = TaskFacts(TASK_ID, "Refund", AGENT, {"order_id": ORDER, "customer": CUSTOMER})
TRIAGE = TaskFacts(TASK_ID, "Triage", "spiffe://dev.stepgrant.test/agent/triage", {"mailbox": "support"})


def support_files() -> dict[str, bytes]:
    """The whole directory, as a loader reads it."""
    return dict(read_directory(SUPPORT))


def desk_files() -> dict[str, bytes]:
    """As `support_files`, with a catalog that has dispatchers: those below `desk`."""
    files = support_files()
    roots = b'\ndispatchers: ["spiffe://dev.stepgrant.test/desk"]\n\ntasks:'
    return {**files, "catalog.yaml": files["catalog.yaml"].replace(b"\ntasks:", roots, 1)}


def with_cedar(*policies: str) -> dict[str, bytes]:
    """Catalog and tools of the support desk with these policies in `a.cedar`, and no golden cases."""
    files = {name: content for name, content in support_files().items() if name.endswith((".json", "catalog.yaml"))}
    return {**files, "a.cedar": "\n".join(policies).encode()}


def opening(task: TaskFacts = REFUND) -> Question:
    """May this task be opened?"""
    return Question(task, StepFacts(), None, {"refunds": Decimal(0), "mails": Decimal(0)}, "x509", START)


def handing_on(to: str, task: TaskFacts = REFUND, tool: str = "orders.refund", giver: str = AGENT) -> Question:
    """May a step of this tool be handed on, as far as the task's own workload is concerned?"""
    return replace(opening(task), handing_on=HandingOn(giver, to, tool))


def asking(
    policy: LoadedPolicySet,
    tool: str,
    arguments: Mapping[str, Any],
    task: TaskFacts = REFUND,
    **given: Any,
) -> Question:
    """May this task call this tool? `given` changes the task's facts."""
    arguments_json = from_python(arguments)
    assert isinstance(arguments_json, dict)
    call = policy.catalog.prepare_call(tool, arguments_json)
    assert not isinstance(call, Denial), call
    budget = {name: call.deltas.get(name, Decimal(0)) for name in policy.catalog.budgets}
    step = StepFacts(1, None, frozenset({task.workload}))
    return Question(replace(task, **given), step, call, budget, "x509", START)
