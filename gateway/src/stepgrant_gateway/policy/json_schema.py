"""JSON Schema as tool documents use it, read into shapes. A keyword that would not be enforced is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final, NoReturn

import re2

from stepgrant.errors import ArgumentsInvalidError, InvalidIdError, InvalidInputError
from stepgrant.ids import parse_name
from stepgrant.intent import MAX_DEPTH, Json, canonical
from stepgrant_gateway.policy.arguments import admit
from stepgrant_gateway.policy.shapes import Field, Format, Kind, Pattern, Range, Shape

MAX_SHAPES: Final = 512
"""Of one tool, references resolved: bounds what a reference inside a reference can grow to."""
MAX_PATTERN_CHARACTERS: Final = 512
_PATTERN_MEMORY: Final = 1024 * 1024

_ANNOTATIONS: Final = frozenset(
    [
        "title",
        "description",
        "examples",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "$schema",
        "$id",
        "$anchor",
        "$defs",
        "definitions",
        "default",
        "additionalProperties",
        "unevaluatedProperties",
    ]
)
"""Keywords that admit and refuse nothing here. Whatever `additionalProperties` says, only named properties pass."""
_KEYWORDS: Final = {
    Kind.STRING: frozenset(["minLength", "maxLength", "pattern", "format"]),
    Kind.INTEGER: frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"]),
    Kind.NUMBER: frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"]),
    Kind.BOOLEAN: frozenset[str](),
    Kind.ARRAY: frozenset(["items", "minItems", "maxItems", "uniqueItems"]),
    Kind.OBJECT: frozenset(["properties", "required", "minProperties", "maxProperties"]),
}
_TYPES: Final = {kind.value: kind for kind in _KEYWORDS}
_FORMATS: Final = {form.value: form for form in Format}


class SchemaError(InvalidInputError):
    """A schema that is not one, or that asks for what is not enforced; `path` says where."""

    code = "schema_invalid"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"`{path}`: {reason}" if path else reason)


def read_schema(schema: Json) -> tuple[Shape, tuple[str, ...]]:
    """The shape of a tool's arguments, and what is hidden from policy though nobody asked for it.

    Raises:
        SchemaError: not a schema of an object, recursive, too large, or with keywords that are not enforced.
    """
    reader = _Reader(schema)
    shape = reader.shape(schema, "", ())
    if shape.kind is not Kind.OBJECT or shape.nullable:
        raise SchemaError("", "the input schema of a tool must be of type object")
    return shape, tuple(dict.fromkeys(reader.warnings))


def read_pattern(text: Json, path: str) -> Pattern:
    """The compiled RE2 expression; raises SchemaError."""
    if not isinstance(text, str) or len(text) > MAX_PATTERN_CHARACTERS:
        raise SchemaError(path, f"a pattern is a text of at most {MAX_PATTERN_CHARACTERS} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    try:
        compiled: Pattern = re2.compile(text, options)
    except re2.error as error:
        detail = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else error
        raise SchemaError(path, f"the pattern is not RE2, which matches in linear time: {detail}") from None
    return compiled


class _Reader:
    def __init__(self, root: Json) -> None:
        self._root = root
        self._count = 0
        self.warnings: list[str] = []

    def shape(self, schema: Json, path: str, open_refs: tuple[str, ...]) -> Shape:
        self._count += 1
        if self._count > MAX_SHAPES or path.count(".") + path.count("[") + len(open_refs) > MAX_DEPTH * 2:
            self._refuse(path, f"the schema has more than {MAX_SHAPES} parts, or nests too deep")
        if schema is True:
            return self._any(path)
        if not isinstance(schema, dict):
            self._refuse(path, "a schema is an object or true")
        if "$ref" in schema:
            return self._reference(schema, path, open_refs)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                return self._combination(schema, keyword, path, open_refs)
        types = self._types(schema, path)
        nullable = "null" in types
        kinds = [name for name in types if name != "null"]
        if not kinds:
            return replace(self._any(path), nullable=True) if nullable else self._any_of_none(schema, path)
        if len(kinds) > 1:
            alternatives = tuple(self._typed(schema, _TYPES[name], path, open_refs, lax=True) for name in kinds)
            return self._union(alternatives, path, nullable=nullable, exactly_one=False)
        shape = self._typed(schema, _TYPES[kinds[0]], path, open_refs)
        if nullable and shape.choices is not None and canonical(None) not in shape.choices:
            nullable = False
        return replace(shape, nullable=nullable)

    def _types(self, schema: dict[str, Json], path: str) -> list[str]:
        declared = schema.get("type")
        types = declared if isinstance(declared, list) else [] if declared is None else [declared]
        names = [name for name in types if isinstance(name, str)]
        unknown = [name for name in names if name not in _TYPES and name != "null"]
        if len(names) != len(types) or unknown or len(set(names)) != len(names):
            self._refuse(path, f"`type` is none of {', '.join(_TYPES)}, null, or a list of them")
        if declared is None:
            if "enum" in schema or "const" in schema:
                return list(dict.fromkeys(_type_of(value) for value in self._choices(schema, path) or ()))
            names = [name for name, sign in (("object", "properties"), ("array", "items")) if sign in schema][:1]
        return names

    def _any_of_none(self, schema: dict[str, Json], path: str) -> Shape:
        rest = sorted(set(schema) - _ANNOTATIONS)
        if rest:
            self._refuse(path, f"`{rest[0]}` without `type`")
        return self._any(path)

    def _any(self, path: str) -> Shape:
        self.warnings.append(f"`{path}` has no type, so policy does not see it")
        return Shape(Kind.ANY)

    def _union(self, alternatives: tuple[Shape, ...], path: str, *, nullable: bool, exactly_one: bool) -> Shape:
        self.warnings.append(f"`{path}` may be one of several types, so policy does not see it")
        return Shape(Kind.UNION, nullable=nullable, alternatives=alternatives, exactly_one=exactly_one)

    def _reference(self, schema: dict[str, Json], path: str, open_refs: tuple[str, ...]) -> Shape:
        pointer = schema["$ref"]
        self._only(schema, _ANNOTATIONS | {"$ref"}, path, "beside `$ref`")
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            self._refuse(path, "`$ref` leaves the document; only #/... is followed")
        if pointer in open_refs:
            self._refuse(path, "the schema refers to itself; its depth must be bounded")
        target = self._root
        for token in pointer[2:].split("/") if pointer != "#" else []:
            name = token.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                self._refuse(path, "`$ref` leads nowhere")
            target = target[name]
        if pointer == "#":
            self._refuse(path, "the schema refers to itself; its depth must be bounded")
        return self.shape(target, path, (*open_refs, pointer))

    def _combination(self, schema: dict[str, Json], keyword: str, path: str, open_refs: tuple[str, ...]) -> Shape:
        self._only(schema, _ANNOTATIONS | {keyword}, path, f"beside `{keyword}`")
        given = schema[keyword]
        if not isinstance(given, list) or not given:
            self._refuse(path, f"`{keyword}` is not a list of schemas")
        if keyword == "allOf":
            if len(given) != 1:
                self._refuse(path, "`allOf` of more than one schema is not enforced; write them as one")
            return self.shape(given[0], path, open_refs)
        rest = [item for item in given if item != {"type": "null"}]
        nullable = len(rest) < len(given)
        if keyword == "oneOf" and len(given) - len(rest) > 1:
            self._refuse(path, "`oneOf` names null twice, so that null fits none")
        if len(rest) == 1:
            shape = self.shape(rest[0], path, open_refs)
            if keyword == "oneOf" and nullable and shape.nullable:
                self._refuse(path, "`oneOf` names null twice, so that null fits none")
            return replace(shape, nullable=nullable or shape.nullable)
        alternatives = tuple(self.shape(item, path, open_refs) for item in rest)
        return self._union(alternatives, path, nullable=nullable, exactly_one=keyword == "oneOf")

    def _typed(
        self, schema: dict[str, Json], kind: Kind, path: str, open_refs: tuple[str, ...], *, lax: bool = False
    ) -> Shape:
        mine = _KEYWORDS[kind]
        others = frozenset().union(*_KEYWORDS.values()) if lax else mine
        self._only(schema, _ANNOTATIONS | others | {"type", "enum", "const"}, path, f"for {kind.value}")
        choices = self._choices(schema, path)
        shape = Shape(kind, choices=None if choices is None else frozenset(canonical(value) for value in choices))
        match kind:
            case Kind.STRING:
                form = schema.get("format")
                pattern = schema.get("pattern")
                return replace(
                    shape,
                    least=self._count_of(schema, "minLength", path) or 0,
                    most=self._count_of(schema, "maxLength", path),
                    pattern=None if pattern is None else read_pattern(pattern, path),
                    format=_FORMATS.get(form) if isinstance(form, str) else None,
                )
            case Kind.INTEGER | Kind.NUMBER:
                return replace(shape, range=self._range(schema, path))
            case Kind.ARRAY:
                items = schema.get("items")
                unique = schema.get("uniqueItems", False)
                if not isinstance(unique, bool):
                    self._refuse(path, "`uniqueItems` is neither true nor false")
                if items is None:
                    self.warnings.append(f"`{path}` has items of no type, so policy does not see it")
                return replace(
                    shape,
                    least=self._count_of(schema, "minItems", path) or 0,
                    most=self._count_of(schema, "maxItems", path),
                    items=None if items is None else self.shape(items, f"{path}[]", open_refs),
                    unique=unique,
                )
            case Kind.OBJECT:
                return replace(
                    shape,
                    least=self._count_of(schema, "minProperties", path) or 0,
                    most=self._count_of(schema, "maxProperties", path),
                    fields=self._fields(schema, path, open_refs),
                )
            case _:
                return shape

    def _fields(self, schema: dict[str, Json], path: str, open_refs: tuple[str, ...]) -> Mapping[str, Field]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            self._refuse(path, "`properties` is no object, or `required` no list")
        absent = [name for name in required if not isinstance(name, str) or name not in properties]
        if absent:
            self._refuse(path, f"`required` names `{str(absent[0])[:64]}`, which `properties` does not")
        folded: dict[str, str] = {}
        fields: dict[str, Field] = {}
        for name, member in sorted(properties.items()):
            try:
                parse_name(name, "the property")
            except InvalidIdError as error:
                self._refuse(f"{path}.{name[:64]}" if path else name[:64], str(error))
            if name.casefold() in folded:
                self._refuse(path, f"`{name}` and `{folded[name.casefold()]}` differ in case only")
            folded[name.casefold()] = name
            inner = f"{path}.{name}" if path else name
            shape = self.shape(member, inner, open_refs)
            fields[name] = self._field(shape, member, name in required, inner)
        return fields

    def _field(self, shape: Shape, member: Json, required: bool, path: str) -> Field:
        if not isinstance(member, dict) or "default" not in member:
            return Field(shape, required)
        default = member["default"]
        if default is None:
            return Field(shape, required, None, null_by_default=shape.nullable)
        try:
            admit(shape, default, path)
        except ArgumentsInvalidError as error:
            self._refuse(path, f"the default does not fit its own schema: {error.reason}")
        return Field(shape, required, default)

    def _choices(self, schema: dict[str, Json], path: str) -> list[Json] | None:
        if "const" in schema:
            return [schema["const"]]
        if "enum" not in schema:
            return None
        choices = schema["enum"]
        if not isinstance(choices, list) or not choices:
            self._refuse(path, "`enum` is not a list of values")
        return choices

    def _range(self, schema: dict[str, Json], path: str) -> Range | None:
        names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
        bounds: list[Decimal | None] = []
        for name in names:
            bound = schema.get(name)
            if bound is not None and not isinstance(bound, Decimal):
                self._refuse(path, f"`{name}` is not a number")
            bounds.append(bound)
        if bounds[4] is not None and bounds[4] <= 0:
            self._refuse(path, "`multipleOf` is not above 0")
        return Range(*bounds) if any(bound is not None for bound in bounds) else None

    def _count_of(self, schema: dict[str, Json], keyword: str, path: str) -> int | None:
        value = schema.get(keyword)
        if value is None:
            return None
        if not isinstance(value, Decimal) or value != value.to_integral_value() or value < 0:
            self._refuse(path, f"`{keyword}` is not a whole number from 0")
        return int(value)

    def _only(self, schema: Mapping[str, Json], known: Iterable[str], path: str, where: str) -> None:
        unknown = sorted(name for name in schema if name not in known and not name.startswith("x-"))
        if unknown:
            self._refuse(path, f"the keyword `{unknown[0][:64]}` {where} is not enforced by this version")

    def _refuse(self, path: str, reason: str) -> NoReturn:
        raise SchemaError(path, reason)


def _type_of(value: Json) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", str: "string", Decimal: "number", list: "array", dict: "object"}
    return names[type(value)]
