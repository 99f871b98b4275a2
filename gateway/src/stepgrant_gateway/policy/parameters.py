"""Parameters of task types: declared in YAML, checked and normalised when a task opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from stepgrant.errors import InvalidIdError
from stepgrant.ids import parse_name
from stepgrant.intent import Json, canonical
from stepgrant_gateway.policy.arguments import admit
from stepgrant_gateway.policy.json_schema import SchemaError, read_pattern
from stepgrant_gateway.policy.parts import normalised
from stepgrant_gateway.policy.shapes import Field, Format, Kind, Range, Shape
from stepgrant_gateway.policy.yaml_reader import Value

MAX_PARAMETERS: Final = 64
MAX_CHOICES: Final = 256
_MAX_SIZE: Final = 65536

_BLANK: Final[Mapping[Kind, Json]] = {
    Kind.STRING: "",
    Kind.INTEGER: Decimal(0),
    Kind.NUMBER: Decimal(0),
    Kind.BOOLEAN: False,
    Kind.ARRAY: [],
}

_OWN: Final = {
    "string": ("pattern", "format", "min_length", "max_length"),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "boolean": (),
    "array": ("items", "min_items", "max_items", "unique"),
}


def read_parameters(value: Value, what: str) -> tuple[Shape, frozenset[str]]:
    """The shape of the parameters that a mapping declares, and the names of the sensitive ones.

    Raises:
        PolicyRefusedError: with the place of what is wrong.
    """
    fields: dict[str, Field] = {}
    sensitive: set[str] = set()
    for name, declared in declared_names(value, what, most=MAX_PARAMETERS).items():
        kind = declared.entries(f"`{name}`", most=MAX_PARAMETERS).get("type")
        if kind is None:
            declared.refuse(f"`{name}` lacks `type`")
        chosen = kind.choice(f"`type` of `{name}`", tuple(_OWN))
        section = declared.section(
            f"`{name}`", required=("type",), optional=("optional", "sensitive", "enum", *_OWN[chosen])
        )
        optional = "optional" in section and section["optional"].boolean(f"`optional` of `{name}`")
        if "sensitive" in section and section["sensitive"].boolean(f"`sensitive` of `{name}`"):
            sensitive.add(name)
        fields[name] = Field(_shape(section, chosen, name), required=not optional)
    return Shape(Kind.OBJECT, fields=fields), frozenset(sensitive)


def normalised_parameters(shape: Shape, parameters: Mapping[str, Json]) -> dict[str, Json]:
    """The parameters, with each value that has a format in its normal form.

    Raises:
        ArgumentsInvalidError: they are not of the shape.
    """
    admit(shape, dict(parameters))
    return {name: _normal(shape.fields[name].shape, value, name) for name, value in parameters.items()}


def blank_values(shape: Shape) -> dict[str, Json]:
    """A value of the right type for each required parameter, which says nothing: "", 0, false, []."""
    return {name: _BLANK[field.shape.kind] for name, field in shape.fields.items() if field.required}


def declared_names(value: Value, what: str, *, most: int) -> dict[str, Value]:
    """The entries of a mapping whose keys are names, no two of them differing in case only."""
    entries = value.entries(what, most=most)
    folded: dict[str, str] = {}
    for name in entries:
        try:
            parse_name(name, f"`{name[:64]}` in {what}")
        except InvalidIdError as error:
            value.refuse(str(error), key=name)
        if name.casefold() in folded:
            value.refuse(f"`{name}` and `{folded[name.casefold()]}` in {what} differ in case only", key=name)
        folded[name.casefold()] = name
    return entries


def _shape(section: dict[str, Value], kind: str, name: str) -> Shape:
    shape = Shape(Kind(kind))
    if "enum" in section:
        choices = section["enum"].items(f"`enum` of `{name}`", most=MAX_CHOICES)
        if not choices:
            section["enum"].refuse(f"`enum` of `{name}` is empty")
        shape = replace(shape, choices=frozenset(canonical(_scalar(choice, name)) for choice in choices))
    match kind:
        case "string":
            return _string(shape, section, name)
        case "integer" | "number":
            low = section["minimum"].number(f"`minimum` of `{name}`") if "minimum" in section else None
            high = section["maximum"].number(f"`maximum` of `{name}`") if "maximum" in section else None
            return replace(shape, range=Range(minimum=low, maximum=high))
        case "array":
            return _array(shape, section, name)
        case _:
            return shape


def _string(shape: Shape, section: dict[str, Value], name: str) -> Shape:
    if "pattern" in section:
        text = section["pattern"].text(f"`pattern` of `{name}`")
        try:
            shape = replace(shape, pattern=read_pattern(text, name), whole_pattern=True)
        except SchemaError as error:
            section["pattern"].refuse(str(error))
    if "format" in section:
        form = section["format"].choice(f"`format` of `{name}`", tuple(form.value for form in Format))
        shape = replace(shape, format=Format(form))
    return _sized(shape, section, "min_length", "max_length", name)


def _array(shape: Shape, section: dict[str, Value], name: str) -> Shape:
    if "items" not in section:
        next(iter(section.values())).refuse(f"`{name}` is an array and lacks `items`")
    items = section["items"]
    declared = items.entries(f"`items` of `{name}`", most=MAX_PARAMETERS).get("type")
    if declared is None:
        items.refuse(f"`items` of `{name}` lacks `type`")
    kind = declared.choice(f"`type` of the items of `{name}`", ("string", "integer", "number", "boolean"))
    inner = items.section(f"`items` of `{name}`", required=("type",), optional=("enum", *_OWN[kind]))
    unique = "unique" in section and section["unique"].boolean(f"`unique` of `{name}`")
    shape = replace(shape, items=_shape(inner, kind, f"{name}[]"), unique=unique)
    return _sized(shape, section, "min_items", "max_items", name)


def _sized(shape: Shape, section: dict[str, Value], low: str, high: str, name: str) -> Shape:
    least = section[low].count(f"`{low}` of `{name}`", least=0, most=_MAX_SIZE) if low in section else 0
    most = section[high].count(f"`{high}` of `{name}`", least=0, most=_MAX_SIZE) if high in section else None
    return replace(shape, least=least, most=most)


def _scalar(value: Value, name: str) -> Json:
    if isinstance(value.data, tuple | dict):
        value.refuse(f"`enum` of `{name}` lists plain values only")
    scalar: Json = value.data
    return scalar


def _normal(shape: Shape, value: Json, path: str) -> Json:
    if shape.format is not None and isinstance(value, str):
        return normalised(shape.format, value, path)
    if shape.items is not None and isinstance(value, list):
        return [_normal(shape.items, item, f"{path}[{index}]") for index, item in enumerate(value)]
    return value
