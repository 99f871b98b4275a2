"""`calls:` of a tool: the envelope of its children, bound to the arguments of the call at hand (design 5.4).

Per called tool and argument: `"{name}"` = equal to the parent's own argument, `any`, or one of `{exact: value}`,
`{one_of: [...]}`, `{at_most: number}`, `{prefix: text}`, `{subset_of: [...]}`. What is not named is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import Json
from stepgrant_gateway.core.delegation import AnyValue, AtMost, Constraint, Envelope, Exact, OneOf, Prefix, SubsetOf
from stepgrant_gateway.policy.arguments import admit
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.policy.shapes import Kind, Shape
from stepgrant_gateway.policy.yaml_reader import Value

MAX_CALLED_TOOLS: Final = 64
MAX_CALLED_ARGUMENTS: Final = 256
MAX_CONSTRAINT_VALUES: Final = 256

_OWN: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_]{0,127})\}")
_FORMS: Final = ("exact", "one_of", "at_most", "prefix", "subset_of")


@dataclass(frozen=True, slots=True)
class OwnArgument:
    """The child's argument equals this argument of the parent; absent there, it is refused here."""

    name: str


CallTemplate = Mapping[str, Mapping[str, Constraint | OwnArgument]]


def read_calls(value: Value, parent: Shape, shapes: Mapping[str, Shape]) -> CallTemplate:
    """The template that `calls:` declares, checked against the schemas of parent and children.

    Raises:
        PolicyRefusedError: an unknown tool or argument, a constraint that could never hold.
    """
    template: dict[str, Mapping[str, Constraint | OwnArgument]] = {}
    for tool, declared in value.entries("`calls`", most=MAX_CALLED_TOOLS).items():
        shape = shapes.get(tool)
        if shape is None:
            value.refuse(
                f"`calls` names `{tool[:128]}`, which is no tool", nearest_name=nearest(tool, shapes), key=tool
            )
        constraints: dict[str, Constraint | OwnArgument] = {}
        for name, constraint in declared.entries(f"`{tool}`", most=MAX_CALLED_ARGUMENTS).items():
            member = shape.fields.get(name)
            if member is None:
                declared.refuse(
                    f"`{tool}` has no argument `{name[:64]}`", nearest_name=nearest(name, shape.fields), key=name
                )
            constraints[name] = _constraint(constraint, f"`{name}` of `{tool}`", member.shape, parent)
        missing = [name for name, member in shape.fields.items() if member.required and name not in constraints]
        if missing:
            declared.refuse(f"`{tool}` takes `{missing[0]}`, and `calls` names nothing that it may be; `any` if so")
        template[tool] = constraints
    return template


def envelope(template: CallTemplate, arguments: Mapping[str, Json]) -> Envelope:
    """What the children of a call with these arguments may do."""
    return Envelope({tool: _bound(constraints, arguments) for tool, constraints in template.items()})


def _bound(constraints: Mapping[str, Constraint | OwnArgument], arguments: Mapping[str, Json]) -> dict[str, Constraint]:
    bound: dict[str, Constraint] = {}
    for name, constraint in constraints.items():
        if not isinstance(constraint, OwnArgument):
            bound[name] = constraint
        elif constraint.name in arguments:
            bound[name] = Exact(arguments[constraint.name])
    return bound


def _constraint(value: Value, what: str, shape: Shape, parent: Shape) -> Constraint | OwnArgument:
    if value.data == "any":
        return AnyValue()
    if isinstance(value.data, str):
        own = _OWN.fullmatch(value.data)
        if own is None:
            value.refuse(f'{what} is neither "{{argument}}" nor any; write a value as {{exact: value}}')
        member = parent.fields.get(own[1])
        if member is None:
            value.refuse(
                f"{what}: the tool itself has no argument `{own[1]}`", nearest_name=nearest(own[1], parent.fields)
            )
        if member.shape.kind is not shape.kind:
            value.refuse(f"{what} is {shape.kind.value}, and `{own[1]}` is {member.shape.kind.value}")
        return OwnArgument(own[1])
    section = value.section(what, optional=_FORMS)
    if len(section) != 1:
        value.refuse(f"{what} has one of {', '.join(_FORMS)}")
    form, inner = next(iter(section.items()))
    return _form(form, inner, what, shape)


def _form(form: str, value: Value, what: str, shape: Shape) -> Constraint:
    match form:
        case "exact":
            return Exact(_literal(value, what, shape))
        case "one_of":
            return OneOf(tuple(_literal(item, what, shape) for item in _values(value, what)))
        case "at_most":
            if shape.kind not in {Kind.INTEGER, Kind.NUMBER}:
                value.refuse(f"{what} is no number, so that it has no `at_most`")
            return AtMost(value.number(what))
        case "prefix":
            if shape.kind is not Kind.STRING:
                value.refuse(f"{what} is no string, so that it has no `prefix`")
            return Prefix(value.text(what))
        case _:
            if shape.kind is not Kind.ARRAY or shape.items is None:
                value.refuse(f"{what} is no array, so that it has no `subset_of`")
            items = shape.items
            return SubsetOf(tuple(_literal(item, what, items) for item in _values(value, what)))


def _values(value: Value, what: str) -> tuple[Value, ...]:
    values = value.items(what, most=MAX_CONSTRAINT_VALUES)
    return values or value.refuse(f"{what} lists no value")


def _literal(value: Value, what: str, shape: Shape) -> Json:
    literal = _plain(value)
    try:
        admit(shape, literal)
    except ArgumentsInvalidError as error:
        value.refuse(f"{what} could never be that: {error.reason}")
    return literal


def _plain(value: Value) -> Json:
    if isinstance(value.data, tuple):
        return [_plain(item) for item in value.data]
    if isinstance(value.data, dict):
        return {name: _plain(item) for name, item in value.data.items()}
    scalar: Json = value.data
    return scalar
