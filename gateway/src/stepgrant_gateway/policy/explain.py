"""Why no permit covers a call: which part of the nearest permit does not hold, in words that are safe to show."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from stepgrant_gateway.core.decision import PolicyPlace
from stepgrant_gateway.policy.evaluation import Evaluator, Rule
from stepgrant_gateway.policy.expressions import Node, conjunction, conjuncts, entities, path_of, paths, walk

MAX_NEAR: Final = 8
"""Permits looked at; a denial must not cost much more than a grant."""
MAX_PARTS: Final = 32


@dataclass(frozen=True, slots=True)
class NearMiss:
    """The permit that came nearest and what it would take. `argument` is empty if no argument is the matter."""

    place: PolicyPlace
    argument: str
    next: str


def explain(
    evaluator: Evaluator,
    request: dict[str, Any],
    parties: Any,
    candidates: Collection[Rule],
    tools: frozenset[str],
) -> NearMiss | None:
    """The near miss, to a whole request of these parties, of the candidate permit that holds furthest, None if there is none or nothing can be said.

    Only what the caller may know is said: names of its own arguments, budgets, and tools among `tools`.
    """
    best: tuple[int, Rule, Node] | None = None
    for rule in [rule for rule in candidates if rule.permits][:MAX_NEAR]:
        document = json.loads(rule.source)
        parts = conjuncts(document["conditions"])[:MAX_PARTS]
        if not parts:
            continue
        # Each part is asked together with all before it, which may guard it (`has`).
        sources = []
        for count in range(len(parts) + 1):
            body = {"kind": "when", "body": conjunction(parts[:count])}
            sources.append(json.dumps({**document, "conditions": [body]}))
        held = evaluator.holds(request, parties, sources)
        if not held[0] or held[-1]:
            continue
        failed = held.index(False) - 1
        if best is None or failed > best[0]:
            best = (failed, rule, parts[failed])
    return _describe(best[1], best[2], tools) if best is not None else None


def _describe(rule: Rule, part: Node, tools: frozenset[str]) -> NearMiss | None:
    named = [path for path in paths(part) if len(path) > 2 and path[0] == "context"]
    arguments = sorted({path[2] for path in named if path[1] in {"args", "parts", "count"}} | _asked_for(part))
    budgets = sorted({path[2] for path in named if path[1] == "budget"})
    if arguments:
        return NearMiss(
            rule.place, arguments[0], f"`{arguments[0]}` is not what this task may pass; use the task's own."
        )
    if budgets:
        return NearMiss(
            rule.place, "", f"the budget `{budgets[0]}` does not cover this step; do less, or ask the operator."
        )
    if ("context", "task", "completed") in named:
        first = sorted({entity.id for entity in entities(part) if entity.type == "Tool"} & tools)
        if first:
            return NearMiss(rule.place, "", f"call {first[0]} first, under a grant of its own, and then this.")
    if any(path[1] == "open" for path in named):
        return NearMiss(rule.place, "", "a dispatcher has to assign this task; open it with its assignment.")
    if any(path[1] == "hand_off" for path in named):
        return NearMiss(rule.place, "", "this step is not handed on, or not to this workload; do it yourself.")
    if ("context", "task", "labels") in named:
        return NearMiss(rule.place, "", "what this task has read does not go with this step; use a task of its own.")
    return None


def _asked_for(part: Node) -> set[str]:
    """Arguments that a condition only asks for with `has`."""
    asked = [node["has"] for node in walk(part) if isinstance(node.get("has"), dict)]
    return {has["attr"] for has in asked if path_of(has.get("left")) == ("context", "args")}
