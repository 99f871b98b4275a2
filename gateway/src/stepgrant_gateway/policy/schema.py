"""The Cedar schema that follows from a catalog (design 5.1, 5.2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from stepgrant_gateway.core.decision import ASSIGN_ACTION, HAND_OFF_ACTION, OPEN_ACTION
from stepgrant_gateway.policy.catalog import LoadedCatalog
from stepgrant_gateway.policy.catalog_reader import EFFECTS
from stepgrant_gateway.policy.parts import COLUMNS
from stepgrant_gateway.policy.shapes import Kind, Shape
from stepgrant_gateway.policy.tools import ToolSchema

NO_NAMES: Final = "(none)"
"""The one member of an enumeration that the catalog leaves empty: no name that anybody can write, so a typo stays one."""
EVERYWHERE: Final = {
    "task": "TaskState",
    "step": "Step",
    "budget": "Budget",
    "subject?": "Subject",
    "peer": "Peer",
    "now": "datetime",
}
"""What stands in the context of every action, those of the task as a whole included, so that a forbid can be written over all of them."""

TASK_STATE: Final = {
    "labels": "Set<Label>",
    "completed": "Set<Tool>",
    "reported": "Set<Tool>",
    "denials": "Long",
    "age": "duration",
}
HANDING_ON: Final = {"from": "Workload", "to": "Workload", "tool": "Tool"}
STEP: Final = {"depth": "Long", "parent_tool?": "Tool", "chain": "Set<String>"}

_Record = Callable[[Mapping[str, str]], str]
_SIMPLE: Final = {Kind.STRING: "String", Kind.INTEGER: "Long", Kind.NUMBER: "decimal", Kind.BOOLEAN: "Bool"}


def derive_schema(catalog: LoadedCatalog, *, partial: bool = False) -> str:
    """The schema in Cedar's own text form; `partial`: any member of the context, and any of theirs, may be left out.

    Names that stand in it were checked when the catalog was loaded, and are quoted but for task types.
    """
    return "\n".join(_lines(catalog, _partial if partial else _record)) + "\n"


def _lines(catalog: LoadedCatalog, record: _Record) -> Iterator[str]:
    yield "entity Workload in [Workload];"
    if catalog.dispatcher_roots:
        yield "entity Dispatcher in [Dispatcher];"
    yield _enumeration("TaskGroup", catalog.task_groups)
    yield _enumeration("Label", catalog.labels)
    yield _enumeration("Tool", catalog.tools)
    yield _enumeration("TargetGroup", catalog.target_groups)
    yield "entity Target in [TargetGroup];"
    yield "entity Gateway;"
    yield "namespace Task {"
    for name in sorted(catalog.task_types):
        yield f"  entity {name} in [Workload, TaskGroup] {_type(catalog.parameter_shapes[name])};"
    yield "}"
    claims = {f"{name}?": _type(member.shape) for name, member in catalog.subject_claims.fields.items()}
    budgets = {name: "decimal" if budget.is_sum else "Long" for name, budget in catalog.budgets.items()}
    yield f"type TaskState = {record(TASK_STATE)};"
    yield f"type Step = {record(STEP)};"
    yield f"type Subject = {record({'iss': 'String', 'sub': 'String', **claims})};"
    yield f"type Peer = {record({'method': 'String'})};"
    yield f"type Budget = {record(budgets)};"
    for group in (*EFFECTS, *(f"{server}.*" for server in sorted(catalog.servers))):
        yield f"action {json.dumps(group)};"
    principals = ", ".join(f"Task::{name}" for name in sorted(catalog.task_types))
    dispatched = {"dispatcher?": "Dispatcher"} if catalog.dispatcher_roots else {}
    opened = {"open": record({"vouched_by": "String", **dispatched}), **EVERYWHERE}
    yield _action(OPEN_ACTION, "", principals, "Gateway", record(opened))
    if catalog.dispatcher_roots:
        assigned = {"assign": record({"by": "Dispatcher"}), **EVERYWHERE}
        yield _action(ASSIGN_ACTION, "", principals, "Gateway", record(assigned))
    handed_on = {"hand_off": record(HANDING_ON), **EVERYWHERE}
    yield _action(HAND_OFF_ACTION, "", principals, "Gateway", record(handed_on))
    for name, schema in sorted(catalog.schemas.items()):
        groups = [*(effect for effect in EFFECTS if effect in schema.tool.effects), f"{name.partition('.')[0]}.*"]
        yield _action(name, f" in {json.dumps(groups)}", principals, "Target", record(_context(schema, record)))


def _context(schema: ToolSchema, record: _Record) -> dict[str, str]:
    context = {**EVERYWHERE, "args": record(_members(schema.shape))}
    if schema.formats:
        parts: dict[str, str] = {}
        for name, form in schema.formats.items():
            many = schema.shape.fields[name].shape.kind is Kind.ARRAY
            columns = {column: f"Set<{kind}>" if many else kind for column, kind in COLUMNS[form].items()}
            parts[_key(schema, name)] = _record(columns)
        context["parts"] = record(parts)
    if schema.counted:
        context["count"] = record({_key(schema, name): "Long" for name in schema.counted})
    return context


def _key(schema: ToolSchema, name: str) -> str:
    return f"{name}?" if schema.shape.fields[name].optional else name


def _action(name: str, groups: str, principals: str, resource: str, context: str) -> str:
    applies = f"principal: [{principals}], resource: {resource}, context: {context}"
    return f"action {json.dumps(name)}{groups} appliesTo {{ {applies} }};"


def _enumeration(name: str, members: Iterable[str]) -> str:
    return f"entity {name} enum {json.dumps(sorted(members) or [NO_NAMES])};"


def _record(attributes: Mapping[str, str]) -> str:
    written = (
        f"{json.dumps(name.removesuffix('?'))}{'?' if name.endswith('?') else ''}: {kind}"
        for name, kind in sorted(attributes.items())
    )
    return f"{{ {', '.join(written)} }}" if attributes else "{}"


def _partial(attributes: Mapping[str, str]) -> str:
    return _record({f"{name.removesuffix('?')}?": kind for name, kind in attributes.items()})


def _members(shape: Shape) -> dict[str, str]:
    return {
        f"{name}?" if member.optional else name: _type(member.shape)
        for name, member in shape.fields.items()
        if member.shape.seen
    }


def _type(shape: Shape) -> str:
    if shape.kind is Kind.OBJECT:
        return _record(_members(shape))
    if shape.kind is Kind.ARRAY and shape.items is not None:
        return f"Set<{_type(shape.items)}>"
    return _SIMPLE[shape.kind]
