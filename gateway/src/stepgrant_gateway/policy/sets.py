"""A policy set: one loaded directory, immutable, that answers boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stepgrant.errors import DenialCode
from stepgrant_gateway.core.decision import NO_PERMIT, OPEN_ACTION, Permitted, Question, Refused, Verdict
from stepgrant_gateway.policy.catalog import LoadedCatalog
from stepgrant_gateway.policy.entities import CedarRequest, UnrepresentableError, request_for
from stepgrant_gateway.policy.evaluation import Evaluator, Outcome
from stepgrant_gateway.policy.explain import explain
from stepgrant_gateway.policy.index import Lineage, lineage_of

NO_PERMIT_REASON: Final = NO_PERMIT.reason
NO_PERMIT_NEXT: Final = NO_PERMIT.next
"""The same words for what is outside the task type, whether it exists or not (invariant 12)."""
_FORBIDDEN_REASON: Final = "a rule of the operator forbids this."
_FORBIDDEN_NEXT: Final = "do without this step, or ask the operator; another try comes to the same."
_ERROR_REASON: Final = "the policy could not be evaluated, so nothing is granted."
_ERROR_NEXT: Final = "ask the operator, naming the decision; the record says which rule failed."


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
        self._case_count = case_count
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
        return self._reach.get(task_type, frozenset()) - {OPEN_ACTION}

    def may_open(self, task_type: str) -> bool:
        """True if some permit could let a workload open a task of this type."""
        return OPEN_ACTION in self._reach.get(task_type, frozenset())

    def evaluate(self, question: Question) -> Verdict:
        """The decision. Default deny, a forbid wins, any error denies (invariant 2)."""
        try:
            request = request_for(self._catalog, question)
        except UnrepresentableError as error:
            return Refused(DenialCode.POLICY_ERROR, _ERROR_REASON, _ERROR_NEXT, errors=(str(error),))
        lineage = self._lineage(request)
        return self._verdict(question, request, lineage, self._evaluator.decide(request, lineage))

    def evaluate_without_index(self, question: Question) -> Verdict:
        """The same decision, looking at every policy; for tests and benchmarks."""
        request = request_for(self._catalog, question)
        return self._verdict(question, request, self._lineage(request), self._evaluator.decide_over_all(request))

    def _lineage(self, request: CedarRequest) -> Lineage:
        action = request.action["id"]
        return lineage_of(action, self._groups.get(action, ()), request.principal, request.resource, request.entities)

    def _verdict(self, question: Question, request: CedarRequest, lineage: Lineage, outcome: Outcome) -> Verdict:
        """Numbered as design 5.3: locks (1) and budgets' bookkeeping are the application's."""
        fired = tuple(rule.place for rule in outcome.forbids)
        if request.action["id"] not in self._reach.get(question.task.task_type, frozenset()):
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
            return self._no_permit(question, request, lineage)
        # 3. Approvals are not enforced by this version: load refuses `@approval`.
        # 4. Terms are settled by the core from what the satisfied permits grant at most.
        return Permitted(tuple(rule.terms for rule in outcome.permits))

    def _no_permit(self, question: Question, request: CedarRequest, lineage: Lineage) -> Refused:
        tools = self.tools_for(question.task.task_type)
        near = explain(self._evaluator, request, self._evaluator.candidates(lineage), tools)
        if near is None:
            return Refused(DenialCode.NO_PERMIT, NO_PERMIT_REASON, NO_PERMIT_NEXT)
        return Refused(DenialCode.NO_PERMIT, NO_PERMIT_REASON, near.next, near.argument, (near.place,))
