"""Asking Cedar: one request against the policies that can match it. Any error is an answer of its own (invariant 2)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cedarpy

from stepgrant_gateway.core.decision import PermitTerms, PolicyPlace
from stepgrant_gateway.policy.entities import Parties, UnrepresentableError
from stepgrant_gateway.policy.index import Lineage, ScopeIndex
from stepgrant_gateway.policy.reads import Reads, reads_of

MAX_CACHED_PLANS: Final = 16_384
"""Parsed sets kept, one for each combination of leaves asked for so far."""
MAX_ERRORS: Final = 16
"""Evaluation errors kept of one decision."""

_POLICY: Final = re.compile(r"error while evaluating policy `([^`]*)`: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy, ready to decide: `source` is its Cedar JSON text; `reason` is the forbid's, for the agent."""

    place: PolicyPlace
    permits: bool
    terms: PermitTerms
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Cedar says. With `errors` nothing else counts; they hold no values of the request."""

    permits: tuple[Rule, ...] = ()
    forbids: tuple[Rule, ...] = ()
    errors: tuple[str, ...] = ()
    erring: tuple[PolicyPlace, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The policies that a lineage can match, parsed, and what they read of a context."""

    handle: Any
    reads: Reads


class Evaluator:
    """Decides requests over one set of rules, with the index or, for comparison, over all of them.

    A request is checked against the schema by its context. `partial_schema` is `schema` with a context that may leave out
    what nobody reads: reading what was left out would be an error, which denies. Where nothing at all is read, the context
    is empty, and nothing is left to check: the parties were, when they were parsed, and every action takes all of them.
    """

    def __init__(self, rules: tuple[Rule, ...], index: ScopeIndex, schema: str, partial_schema: str) -> None:
        self._rules = rules
        self._index = index
        self._schema = cedarpy.Schema.from_str(schema)
        self._partial_schema = cedarpy.Schema.from_str(partial_schema)
        # Bounded and thread-safe; a miss only costs the parsing of the few policies concerned.
        self._plan: Callable[[tuple[int, ...]], Plan] = lru_cache(MAX_CACHED_PLANS)(self._plan_of)

    def candidates(self, lineage: Lineage) -> tuple[Rule, ...]:
        """Rules whose scope the request may match, in the order of the directory."""
        return tuple(self._rules[number] for number in self._numbers(self._index.matching(lineage)))

    def plan(self, lineage: Lineage) -> Plan:
        """What `decide` needs to know of the policies that can match."""
        return self._plan(self._index.matching(lineage))

    def entities(self, parties: Parties) -> Any:
        """The parties, parsed and checked, with the actions and their groups.

        Raises:
            UnrepresentableError: they do not fit the schema.
        """
        try:
            # The schema brings the actions; a call does not, and does not check what is parsed already.
            return cedarpy.Entities.from_json_str(json.dumps(parties.entities), schema=self._schema)
        except (ValueError, TypeError) as error:
            raise UnrepresentableError("the task or its target does not fit the schema of this policy set.") from error

    def decide(self, request: dict[str, Any], entities: Any, plan: Plan) -> Outcome:
        """The outcome over the policies of `plan`, of a request whose context holds what they read, and little else."""
        return self._ask(request, entities, plan.handle, None if plan.reads.nothing else self._partial_schema)

    def decide_over_all(self, request: dict[str, Any], entities: Any) -> Outcome:
        """The same outcome at the cost of looking at every policy and the whole context: what the index is held against."""
        return self._ask(request, entities, self._parse(range(len(self._rules))), self._schema)

    def holds(self, request: dict[str, Any], entities: Any, sources: Iterable[str]) -> tuple[bool, ...]:
        """For each policy (Cedar JSON text of a permit), whether it is satisfied; one that errs is not."""
        texts = list(sources)
        answer = cedarpy.is_authorized(request, _handle_of(enumerate(texts)), entities, schema=self._schema)
        satisfied = set(answer.diagnostics.reasons) if answer.decision is cedarpy.Decision.Allow else set()
        return tuple(str(number) in satisfied for number in range(len(texts)))

    def _numbers(self, leaves: tuple[int, ...]) -> list[int]:
        return sorted({number for leaf in leaves for number in self._index.leaves[leaf]})

    def _plan_of(self, leaves: tuple[int, ...]) -> Plan:
        numbers = self._numbers(leaves)
        reads = reads_of(json.loads(self._rules[number].source)["conditions"] for number in numbers)
        return Plan(self._parse(numbers), reads)

    def _parse(self, numbers: Iterable[int]) -> Any:
        return _handle_of((number, self._rules[number].source) for number in numbers)

    def _ask(self, request: dict[str, Any], entities: Any, handle: Any, schema: Any) -> Outcome:
        try:
            answer = cedarpy.is_authorized(request, handle, entities, schema=schema)
        except (ValueError, TypeError, KeyError) as error:
            return Outcome(errors=(f"Cedar could not be asked ({type(error).__name__}).",))
        if answer.diagnostics.errors:
            return self._erred(answer.diagnostics.errors)
        fired = [self._rules[int(reason)] for reason in answer.diagnostics.reasons]
        fired.sort(key=_policy_id)
        decision = answer.decision
        if decision is cedarpy.Decision.Allow:
            return Outcome(permits=tuple(fired))
        if decision is cedarpy.Decision.Deny:
            return Outcome(forbids=tuple(fired))
        return Outcome(errors=("Cedar came to no decision.",))

    def _erred(self, errors: Iterable[str]) -> Outcome:
        """Cedar skips a forbid that errs and may answer Allow; here the error is the whole answer."""
        texts: list[str] = []
        places: list[PolicyPlace] = []
        for error in sorted(errors)[:MAX_ERRORS]:
            match = _POLICY.fullmatch(error)
            if match is None or not match[1].isdigit() or int(match[1]) >= len(self._rules):
                texts.append("The request does not fit the schema of this policy set.")
                continue
            place = self._rules[int(match[1])].place
            places.append(place)
            # From the first backtick on, Cedar's text may hold values of the call.
            what = match[2].partition("`")[0].strip()
            texts.append(f"{place.file}:{place.line}: [{place.policy_id}] {what[:256]}")
        return Outcome(errors=tuple(texts), erring=tuple(places))


def _policy_id(rule: Rule) -> str:
    return rule.place.policy_id


def _handle_of(sources: Iterable[tuple[int, str]]) -> Any:
    policies = ",".join(f'"{number}":{source}' for number, source in sources)
    return cedarpy.PolicySet.from_json_str('{"staticPolicies":{' + policies + '},"templates":{},"templateLinks":[]}')
