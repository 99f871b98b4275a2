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
from stepgrant_gateway.policy.entities import CedarRequest
from stepgrant_gateway.policy.index import Lineage, ScopeIndex

MAX_CACHED_HANDLES: Final = 16_384
"""Parsed sets kept, one for each combination of leaves asked for so far."""
MAX_CACHED_ENTITIES: Final = 1024
"""Parsed entities kept, one for each combination of task and target asked about lately."""
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


class Evaluator:
    """Decides requests over one set of rules, with the index or, for comparison, over all of them."""

    def __init__(self, rules: tuple[Rule, ...], index: ScopeIndex, schema: str) -> None:
        self._rules = rules
        self._index = index
        self._schema = cedarpy.Schema.from_str(schema)
        # Bounded and thread-safe; a miss only costs the parsing of the few policies concerned.
        self._handle: Callable[[tuple[int, ...]], Any] = lru_cache(MAX_CACHED_HANDLES)(self._parse_leaves)
        # Likewise, by the whole of their text.
        self._entities: Callable[[str], Any] = lru_cache(MAX_CACHED_ENTITIES)(self._parse_entities)

    def candidates(self, lineage: Lineage) -> tuple[Rule, ...]:
        """Rules whose scope the request may match, in the order of the directory."""
        return tuple(self._rules[number] for number in self._numbers(self._index.matching(lineage)))

    def decide(self, request: CedarRequest, lineage: Lineage) -> Outcome:
        """The outcome over the policies that can match."""
        return self._ask(request, self._handle(self._index.matching(lineage)))

    def decide_over_all(self, request: CedarRequest) -> Outcome:
        """The same outcome at the cost of looking at every policy: what the index is held against."""
        return self._ask(request, self._parse(range(len(self._rules))))

    def holds(self, request: CedarRequest, sources: Iterable[str]) -> tuple[bool, ...]:
        """For each policy (Cedar JSON text of a permit), whether it is satisfied; one that errs is not."""
        texts = list(sources)
        answer = self._authorize(request, _handle_of(enumerate(texts)))
        satisfied = set(answer.diagnostics.reasons) if answer.decision is cedarpy.Decision.Allow else set()
        return tuple(str(number) in satisfied for number in range(len(texts)))

    def _numbers(self, leaves: tuple[int, ...]) -> list[int]:
        return sorted({number for leaf in leaves for number in self._index.leaves[leaf]})

    def _parse_leaves(self, leaves: tuple[int, ...]) -> Any:
        return self._parse(self._numbers(leaves))

    def _parse(self, numbers: Iterable[int]) -> Any:
        return _handle_of((number, self._rules[number].source) for number in numbers)

    def _parse_entities(self, text: str) -> Any:
        # The schema checks them, and brings the actions with their groups; a call does neither for what is parsed already.
        return cedarpy.Entities.from_json_str(text, schema=self._schema)

    def _authorize(self, request: CedarRequest, handle: Any) -> Any:
        entities = self._entities(json.dumps(request.entities))
        return cedarpy.is_authorized(request.request(), handle, entities, schema=self._schema)

    def _ask(self, request: CedarRequest, handle: Any) -> Outcome:
        try:
            answer = self._authorize(request, handle)
        except (ValueError, TypeError, KeyError) as error:
            return Outcome(errors=(f"Cedar could not be asked ({type(error).__name__}).",))
        if answer.diagnostics.errors:
            return self._erred(answer.diagnostics.errors)
        fired = tuple(self._rules[int(reason)] for reason in answer.diagnostics.reasons)
        ordered = tuple(sorted(fired, key=lambda rule: rule.place.policy_id))
        if answer.decision is cedarpy.Decision.Allow:
            return Outcome(permits=ordered)
        if answer.decision is cedarpy.Decision.Deny:
            return Outcome(forbids=ordered)
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


def _handle_of(sources: Iterable[tuple[int, str]]) -> Any:
    policies = ",".join(f'"{number}":{source}' for number, source in sources)
    return cedarpy.PolicySet.from_json_str('{"staticPolicies":{' + policies + '},"templates":{},"templateLinks":[]}')
