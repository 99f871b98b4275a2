"""Budgets: what one call adds to each, exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import Json
from stepgrant_gateway.policy.arguments import cedar_decimal
from stepgrant_gateway.policy.declarations import BudgetDeclaration
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.policy.shapes import Kind, Shape
from stepgrant_gateway.policy.yaml_reader import Value

ONE: Final = Decimal(1)
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Counted:
    """A tool's part in a budget. `path`: argument and members below it, None = the call itself counts as one."""

    budget: str
    path: tuple[str, ...] | None


def resolve_budgets(
    budgets: Mapping[str, BudgetDeclaration], shapes: Mapping[str, Shape]
) -> Mapping[str, tuple[Counted, ...]]:
    """By tool, the budgets it adds to.

    Raises:
        PolicyRefusedError: a member that is no tool, or no number of one.
    """
    counted: dict[str, list[Counted]] = {}
    for name, declared in budgets.items():
        seen: set[str] = set()
        for member in declared.members:
            text = member.text("a member of a budget")
            if text in seen:
                member.refuse(f"`{text}` counts twice in budget `{name}`")
            seen.add(text)
            tool, path = _member(member, text, shapes, is_sum=declared.budget.is_sum)
            counted.setdefault(tool, []).append(Counted(name, path))
    return {tool: tuple(members) for tool, members in counted.items()}


def deltas(counted: tuple[Counted, ...], shape: Shape, arguments: Mapping[str, Json]) -> Mapping[str, Decimal]:
    """What a call adds to each of its budgets: its numbers, those of arrays with multiplicity, defaults filled in.

    Raises:
        ArgumentsInvalidError: a negative summand, more than four places, or beyond what policy compares.
    """
    added: dict[str, Decimal] = {}
    for member in counted:
        amount = ONE
        if member.path is not None:
            amount = _sum(shape, dict(arguments), member.path, "")
            cedar_decimal(amount, member.path[0])
        added[member.budget] = added.get(member.budget, ZERO) + amount
    return added


def _member(
    member: Value, text: str, shapes: Mapping[str, Shape], *, is_sum: bool
) -> tuple[str, tuple[str, ...] | None]:
    segments = text.split(".")
    tool = ".".join(segments[:2])
    if tool not in shapes:
        member.refuse(f"`{text}` names no tool of the catalog", nearest_name=nearest(tool, shapes))
    path = tuple(segments[2:])
    if not is_sum:
        if path:
            member.refuse(f"`{text}` names an argument; `count` takes tools, `sum` takes arguments")
        return tool, None
    shape = shapes[tool]
    for name in path:
        shape = _elements(shape)
        if name not in shape.fields:
            member.refuse(f"`{text}`: there is no `{name}`", nearest_name=nearest(name, shape.fields))
        shape = shape.fields[name].shape
    if not path or _elements(shape).kind not in {Kind.INTEGER, Kind.NUMBER}:
        member.refuse(f"`{text}` is no number, nor an array of numbers; write server.tool.argument")
    return tool, path


def _elements(shape: Shape) -> Shape:
    while shape.kind is Kind.ARRAY and shape.items is not None:
        shape = shape.items
    return shape


def _sum(shape: Shape, value: Json, path: tuple[str, ...], where: str) -> Decimal:
    if isinstance(value, list) and shape.items is not None:
        items = shape.items
        return sum((_sum(items, item, path, f"{where}[{index}]") for index, item in enumerate(value)), ZERO)
    if isinstance(value, Decimal):
        if value < 0:
            raise ArgumentsInvalidError(
                f"`{where}` is negative and counts for a budget", argument=where, fix="pass 0 or more"
            )
        cedar_decimal(value, where)
        return value
    if isinstance(value, dict) and path:
        member = shape.fields[path[0]]
        inner = f"{where}.{path[0]}" if where else path[0]
        return _sum(member.shape, value.get(path[0], member.default), path[1:], inner)
    return ZERO
