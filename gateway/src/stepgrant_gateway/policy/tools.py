"""Tools: a declaration of the catalog joined with the schema of its tool document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from stepgrant import intent
from stepgrant.intent import Json
from stepgrant.target import template_arguments
from stepgrant_gateway.core.decision import Tool
from stepgrant_gateway.core.errors import Finding
from stepgrant_gateway.policy.declarations import ArgumentDeclaration, ToolDeclaration
from stepgrant_gateway.policy.findings import nearest, refused
from stepgrant_gateway.policy.json_schema import SchemaError, read_schema
from stepgrant_gateway.policy.shapes import Field, Format, Kind, Shape, opened
from stepgrant_gateway.policy.tool_documents import DocumentedTool

_TARGET_KINDS: Final = frozenset([Kind.STRING, Kind.INTEGER, Kind.BOOLEAN])


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A tool that can be called. `formats`: arguments that have parts, by name; `counted`: arrays that policy sees."""

    tool: Tool
    shape: Shape
    sinks: frozenset[str]
    sensitive: frozenset[str]
    formats: Mapping[str, Format]
    counted: frozenset[str]


def join_tool(
    declared: ToolDeclaration, documents: Mapping[str, Mapping[str, DocumentedTool]]
) -> tuple[ToolSchema, tuple[Finding, ...]]:
    """The tool, and warnings about arguments that policy will not see.

    Raises:
        PolicyRefusedError: no such tool in the document, a schema that cannot be enforced, settings that do not fit it.
    """
    documented = documents[declared.document].get(declared.own_name)
    if documented is None:
        declared.place.refuse(
            f"{declared.document} has no tool `{declared.own_name}`",
            nearest_name=nearest(declared.own_name, documents[declared.document]),
        )
    try:
        shape, hidden = read_schema(documented.input_schema)
    except SchemaError as error:
        raise refused(declared.document, documented.line, f"tool `{declared.own_name}`, {error}") from None
    shape = _with_settings(shape, declared)
    _refuse_target(shape, declared)
    formats = {name: form for name, member in shape.fields.items() if (form := _format_of(member.shape)) is not None}
    schema = ToolSchema(
        tool=Tool(
            name=declared.name,
            digest=tool_digest(declared.name, documented.input_schema, declared.effects, declared.target),
            effects=declared.effects,
            tier=declared.tier,
            audience=declared.audience,
            target_template=declared.target,
            labels=declared.labels,
        ),
        shape=shape,
        sinks=frozenset(name for name, said in declared.arguments.items() if said.sink),
        sensitive=frozenset(name for name, said in declared.arguments.items() if said.sensitive),
        formats=formats,
        counted=frozenset(
            name for name, member in shape.fields.items() if member.shape.kind is Kind.ARRAY and member.shape.seen
        ),
    )
    said = {name for name, setting in declared.arguments.items() if setting.hidden or setting.free_form}
    warnings = tuple(
        Finding(declared.document, documented.line, "", f"tool `{declared.own_name}`: {text}")
        for text in hidden
        if text[1:].split("`")[0].split(".")[0].split("[")[0] not in said
    )
    return schema, warnings


def tool_digest(name: str, input_schema: Json, effects: frozenset[str], target: str) -> bytes:
    """SHA-256 over JCS of {effects, input_schema, name, target}, effects sorted: what the tool is (design 4)."""
    listed: list[Json] = [*sorted(effects)]
    return intent.digest({"effects": listed, "input_schema": input_schema, "name": name, "target": target})


def _with_settings(shape: Shape, declared: ToolDeclaration) -> Shape:
    fields = dict(shape.fields)
    for name, said in declared.arguments.items():
        if name not in fields:
            said.place.refuse(f"`{declared.name}` has no argument `{name}`", nearest_name=nearest(name, fields))
        fields[name] = replace(fields[name], shape=_with_setting(fields[name], name, said))
    return replace(shape, fields=fields)


def _with_setting(member: Field, name: str, said: ArgumentDeclaration) -> Shape:
    shape = member.shape
    if said.format is not None:
        shape = _with_format(shape, name, said)
    if said.min_items or said.unique:
        if shape.kind is not Kind.ARRAY:
            said.place.refuse(f"`{name}` is not an array, so that it has neither `min_items` nor `unique`")
        if shape.most is not None and said.min_items > shape.most:
            said.place.refuse(f"`min_items` of `{name}` is above the schema's maxItems")
        shape = replace(shape, least=max(shape.least, said.min_items), unique=shape.unique or said.unique)
    if said.free_form:
        shape = opened(shape)
    if said.hidden:
        shape = replace(shape, hidden=True)
    if said.sink and not shape.seen:
        said.place.refuse(f"`{name}` is a sink and is hidden from policy, so that no permit could bind it")
    return shape


def _with_format(shape: Shape, name: str, said: ArgumentDeclaration) -> Shape:
    if shape.kind is Kind.STRING:
        return replace(shape, format=said.format)
    if shape.kind is Kind.ARRAY and shape.items is not None and shape.items.kind is Kind.STRING:
        return replace(shape, items=replace(shape.items, format=said.format))
    return said.place.refuse(f"`{name}` is neither a string nor an array of strings, so that it has no `format`")


def _format_of(shape: Shape) -> Format | None:
    if not shape.seen:
        return None
    if shape.kind is Kind.ARRAY and shape.items is not None:
        return shape.items.format
    return shape.format


def _refuse_target(shape: Shape, declared: ToolDeclaration) -> None:
    for name in template_arguments(declared.target):
        member = shape.fields.get(name)
        if member is None:
            declared.place.refuse(
                f"the target of `{declared.name}` names `{name}`, which is no argument of it",
                nearest_name=nearest(name, shape.fields),
                key="target",
            )
        if not member.required or member.shape.nullable or member.shape.kind not in _TARGET_KINDS:
            declared.place.refuse(
                f"the target of `{declared.name}` names `{name}`, which is not a required string, integer or boolean",
                key="target",
            )
