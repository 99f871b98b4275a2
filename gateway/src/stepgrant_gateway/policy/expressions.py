"""Cedar conditions in their JSON form: what they mention, their conjuncts, and what they always come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stepgrant_gateway.policy.findings import nearest

Node = Mapping[str, Any]
"""One expression of Cedar's JSON policy format: one member, named by its operator."""

MAX_EXPRESSION_DEPTH: Final = 400
"""Levels of JSON in one policy; far more than people write, far from the interpreter's recursion limit."""

_REFLEXIVE: Final = frozenset({"==", "<=", ">=", "containsAll", "lessThanOrEqual", "greaterThanOrEqual"})
"""Always true of one thing and itself (`containsAll`: of one set)."""
_IRREFLEXIVE: Final = frozenset({"!=", "<", ">", "lessThan", "greaterThan"})
_OF_NOTHING: Final = {"containsAll": True, "containsAny": False}
"""What these come to when asked about an empty set."""


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """A literal entity: `Workload::"spiffe://acme.org/agent"`."""

    type: str
    id: str


def depth(value: Any) -> int:
    """Levels of nested JSON, counted without recursion."""
    deepest, row = 0, [value]
    while row:
        deepest += 1
        below: list[Any] = []
        for item in row:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        row = below
    return deepest


def walk(node: Any) -> Iterator[Node]:
    """Every JSON object in an expression, the outermost first."""
    pending = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):  # As JSON is read; asking for a Mapping takes most of the time of a large set.
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def entities(node: Any) -> Iterator[Entity]:
    """Every literal entity in an expression or a scope."""
    for item in walk(node):
        if item.keys() == {"type", "id"} and isinstance(item["type"], str) and isinstance(item["id"], str):
            yield Entity(item["type"], item["id"])


def strings(node: Any) -> Iterator[str]:
    """Every literal string in an expression."""
    for item in walk(node):
        if isinstance(item.get("Value"), str):
            yield item["Value"]


def path_of(node: Any) -> tuple[str, ...] | None:
    """`("context", "args", "amount")` for `context.args.amount`, None for what is no chain of attributes of a variable."""
    names: list[str] = []
    while isinstance(node, Mapping):
        if isinstance(node.get("Var"), str):
            return (node["Var"], *reversed(names))
        access = node.get(".")
        if not isinstance(access, Mapping) or not isinstance(access.get("attr"), str):
            return None
        names.append(access["attr"])
        node = access["left"]
    return None


def paths(node: Any) -> Iterator[tuple[str, ...]]:
    """Every attribute chain whose value is used, longest form only; what is only asked for with `has` is left out."""
    pending = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, Mapping):
            path = path_of(item)
            if path is not None:
                yield path
            elif "has" not in item or path_of(item["has"].get("left")) is None:
                pending.extend(item.values())


def mentions_variable(node: Any) -> bool:
    """True if an expression depends on the request at all."""
    return any(isinstance(item.get("Var"), str) for item in walk(node))


def conjuncts(conditions: list[Any]) -> tuple[Node, ...]:
    """What must all hold for the conditions (`when` and `unless`) of one policy, in order of evaluation."""
    found: list[Node] = []
    for condition in conditions:
        body = condition["body"]
        if condition["kind"] == "unless":
            body = {"!": {"arg": body}}
        pending = [body]
        while pending:
            item = pending.pop()
            if "&&" in item:
                pending += [item["&&"]["right"], item["&&"]["left"]]
            else:
                found.append(item)
    return tuple(found)


def demanded_workload(part: Node) -> Entity | None:
    """The workload of `principal in Workload::"..."`; None for any other condition."""
    membership = part.get("in")
    if membership is None or membership["left"] != {"Var": "principal"}:
        return None
    literal = membership["right"].get("Value")
    named = literal.get("__entity") if isinstance(literal, Mapping) else None
    return Entity(named["type"], named["id"]) if named is not None and named["type"] == "Workload" else None


def conjunction(parts: tuple[Node, ...]) -> Node:
    """One expression that holds when all parts do."""
    whole: Node = {"Value": True}
    for index, part in enumerate(parts):
        whole = part if index == 0 else {"&&": {"left": whole, "right": part}}
    return whole


def constant(node: Node, evaluate: Callable[[Node], bool | None]) -> bool | None:
    """What a condition always comes to, None if that depends on the request.

    `evaluate` answers for an expression without variables (None if it errs).
    """
    if "&&" in node or "||" in node:
        operator, settles = ("&&", False) if "&&" in node else ("||", True)
        sides = [constant(node[operator][side], evaluate) for side in ("left", "right")]
        if settles in sides:
            return settles
        return None if None in sides else not settles
    if "!" in node:
        inner = constant(node["!"]["arg"], evaluate)
        return None if inner is None else not inner
    if "if-then-else" in node:
        branch = node["if-then-else"]
        test = constant(branch["if"], evaluate)
        if test is not None:
            return constant(branch["then" if test else "else"], evaluate)
        outcomes = {constant(branch["then"], evaluate), constant(branch["else"], evaluate)}
        return outcomes.pop() if len(outcomes) == 1 else None
    if not mentions_variable(node):
        return evaluate(node)
    if "like" in node and all(piece == "Wildcard" for piece in node["like"]["pattern"]):
        return True
    operator, operands = _operands(node)
    if operator in _OF_NOTHING and operands[1] == {"Set": []}:
        return _OF_NOTHING[operator]
    if len(operands) == 2 and _same(*operands):
        return True if operator in _REFLEXIVE else False if operator in _IRREFLEXIVE else None
    return None


def contradiction(parts: tuple[Node, ...]) -> bool:
    """True if two parts ask one attribute to equal two different literals."""
    wanted: dict[tuple[str, ...], str] = {}
    for part in parts:
        operator, operands = _operands(part)
        if operator != "==":
            continue
        for subject, value in (operands, operands[::-1]):
            path = path_of(subject)
            if path is None or mentions_variable(value):
                continue
            text = json.dumps(value, sort_keys=True)
            if wanted.setdefault(path, text) != text and _plain(value):
                return True
    return False


def nearest_entity(entity: Entity, candidates: tuple[str, ...]) -> str:
    """The nearest valid entity of the same type, as Cedar writes it, or an empty text."""
    name = nearest(entity.id, candidates)
    return f"{entity.type}::{json.dumps(name, ensure_ascii=False)}" if name else ""


def _operands(node: Node) -> tuple[str, list[Any]]:
    for operator, value in node.items():
        if isinstance(value, Mapping) and value.keys() == {"left", "right"}:
            return operator, [value["left"], value["right"]]
        if isinstance(value, list) and len(value) == 2:
            return operator, value
    return "", []


def _same(left: Any, right: Any) -> bool:
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def _plain(value: Any) -> bool:
    """A literal whose equality is that of its text: not a set (order), not a decimal (`1.0` and `1.00`)."""
    return isinstance(value, Mapping) and value.keys() == {"Value"}
