"""A policy set: one loaded directory, immutable, that answers boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from stepgrant.errors import DenialCode
from stepgrant.intent import Json
from stepgrant_gateway.core.decision import (
    NO_PERMIT,
    OPEN_ACTION,
    TASK_ACTIONS,
    Permitted,
    Question,
    Refused,
    StepFacts,
    TaskFacts,
    Verdict,
)
from stepgrant_gateway.policy.catalog import LoadedCatalog
from stepgrant_gateway.policy.entities import Parties, UnrepresentableError, context_of, parties_of
from stepgrant_gateway.policy.evaluation import Evaluator, Outcome, Plan
from stepgrant_gateway.policy.explain import explain
from stepgrant_gateway.policy.index import Lineage, lineage_of

MAX_GROUNDS: Final = 1024
"""Tasks with a tool and a target, asked about lately, whose parties stay parsed."""
NO_PERMIT_REASON: Final = NO_PERMIT.reason
NO_PERMIT_NEXT: Final = NO_PERMIT.next
"""The same words for what is outside the task type, whether it exists or not (invariant 12)."""
_FORBIDDEN_REASON: Final = "a rule of the operator forbids this."
_FORBIDDEN_NEXT: Final = "do without this step, or ask the operator; another try comes to the same."
_ERROR_REASON: Final = "the policy could not be evaluated, so nothing is granted."
_ERROR_NEXT: Final = "ask the operator, naming the decision; the record says which rule failed."

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The time of a question that no policy is asked."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What is the same at every boundary of one task, tool and target: the parties, parsed, and the policies about them.

    `parameters` is the very mapping that the parties were made of.
    """

    parameters: Mapping[str, Json]
    parties: Parties
    entities: Any
    lineage: Lineage
    plan: Plan


class LoadedPolicySet:
    """Implements `core.ports.PolicySet`."""

    def __init__(
        self,
        digest: str,
        catalog: LoadedCatalog,
        evaluator: Evaluator,
        reach: Mapping[str, frozenset[str]],
        case_count: int,
    ) -> None:
        """`reach`: the actions that some permit could allow, by task type. `case_count`: golden cases of the directory."""
        self._digest = digest
        self._catalog = catalog
        self._evaluator = evaluator
        self._reach = reach
        self._tools = {name: actions - TASK_ACTIONS for name, actions in reach.items()}
        self._case_count = case_count
        self._grounds: dict[Any, Ground] = {}
        self._groups = {
            name: (*sorted(tool.effects), f"{name.partition('.')[0]}.*") for name, tool in catalog.tools.items()
        }

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits over every file of the directory."""
        return self._digest

    @property
    def catalog(self) -> LoadedCatalog:
        """The catalog of the same directory."""
        return self._catalog

    @property
    def case_count(self) -> int:
        """Golden cases that ran when it was loaded."""
        return self._case_count

    def tools_for(self, task_type: str) -> frozenset[str]:
        """Tools that some permit could allow to tasks of this type; none for an unknown type."""
        return self._tools.get(task_type, frozenset())

    def may_open(self, task_type: str) -> bool:
        """True if some permit could let a workload open a task of this type."""
        return OPEN_ACTION in self._reach.get(task_type, frozenset())

    def concerns(self, task: TaskFacts) -> bool:
        """See `core.ports.PolicySet`."""
        question = Question(task, StepFacts(), None, {}, "", _NEVER)
        try:
            lineage = self._grounded(question).lineage
        except UnrepresentableError:
            return False
        reached = OPEN_ACTION in self._reach.get(task.task_type, frozenset())
        return reached and any(rule.permits for rule in self._evaluator.candidates(lineage))

    def evaluate(self, question: Question) -> Verdict:
        """The decision. Default deny, a forbid wins, any error denies (invariant 2)."""
        try:
            ground = self._ground(question)
            context = context_of(self._catalog, question, ground.plan.reads)
        except UnrepresentableError as error:
            return Refused(DenialCode.POLICY_ERROR, _ERROR_REASON, _ERROR_NEXT, errors=(str(error),))
        outcome = self._evaluator.decide(ground.parties.request(context), ground.entities, ground.plan)
        return self._verdict(question, ground, outcome)

    def evaluate_without_index(self, question: Question) -> Verdict:
        """The same decision, looking at every policy and the whole context; for tests and benchmarks."""
        ground = self._grounded(question)
        request = ground.parties.request(context_of(self._catalog, question))
        return self._verdict(question, ground, self._evaluator.decide_over_all(request, ground.entities))

    def _ground(self, question: Question) -> Ground:
        """As `_grounded`, remembered. The key and the parameters hold all that it is made of, but for this very set."""
        task, call = question.task, question.call
        what = (
            (call.tool.name, call.target, call.target_groups)
            if call is not None
            else (question.action, question.dispatcher, question.handing_on)
        )
        key = (task.task_id, task.task_type, task.workload, what)
        known = self._grounds.get(key)
        if known is None or known.parameters is not task.parameters:
            if len(self._grounds) >= MAX_GROUNDS:
                self._grounds.pop(next(iter(self._grounds)), None)
            known = self._grounds[key] = self._grounded(question)
        return known

    def _grounded(self, question: Question) -> Ground:
        parties = parties_of(self._catalog, question)
        action = parties.action["id"]
        groups = self._groups.get(action, ())
        lineage = lineage_of(action, groups, parties.principal, parties.resource, parties.entities)
        entities = self._evaluator.entities(parties)
        return Ground(question.task.parameters, parties, entities, lineage, self._evaluator.plan(lineage))

    def _verdict(self, question: Question, ground: Ground, outcome: Outcome) -> Verdict:
        """Numbered as design 5.3: locks (1) and budgets' bookkeeping are the application's."""
        fired = tuple(rule.place for rule in outcome.forbids)
        if ground.parties.action["id"] not in self._reach.get(question.task.task_type, frozenset()):
            return Refused(
                DenialCode.NO_PERMIT,
                NO_PERMIT_REASON,
                NO_PERMIT_NEXT,
                places=fired or outcome.erring,
                errors=outcome.errors,
            )
        # 2. Walls and permits. An error first: Cedar has skipped the policy that erred, and it may be a forbid.
        if outcome.errors:
            return Refused(
                DenialCode.POLICY_ERROR, _ERROR_REASON, _ERROR_NEXT, places=outcome.erring, errors=outcome.errors
            )
        if outcome.forbids:
            reason = next((rule.reason for rule in outcome.forbids if rule.reason), _FORBIDDEN_REASON)
            return Refused(DenialCode.FORBIDDEN, reason, _FORBIDDEN_NEXT, places=fired)
        if not outcome.permits:
            return self._no_permit(question, ground)
        # 3. Approvals are not enforced by this version: load refuses `@approval`.
        # 4. Terms are settled by the core from what the satisfied permits grant at most.
        return Permitted(tuple(rule.terms for rule in outcome.permits))

    def _no_permit(self, question: Question, ground: Ground) -> Refused:
        tools = self.tools_for(question.task.task_type)
        request = ground.parties.request(context_of(self._catalog, question))
        candidates = self._evaluator.candidates(ground.lineage)
        near = explain(self._evaluator, request, ground.entities, candidates, tools)
        if near is None:
            return Refused(DenialCode.NO_PERMIT, NO_PERMIT_REASON, NO_PERMIT_NEXT)
        return Refused(DenialCode.NO_PERMIT, NO_PERMIT_REASON, near.next, near.argument, (near.place,))
