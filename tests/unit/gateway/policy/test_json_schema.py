"""JSON Schema is read into shapes; a keyword that would not be enforced is refused."""

from decimal import Decimal

import pytest

from stepgrant.intent import from_python
from stepgrant_gateway.policy.json_schema import MAX_PATTERN_CHARACTERS, SchemaError, read_pattern, read_schema
from stepgrant_gateway.policy.shapes import Format, Kind, Range


def schema_of(properties, **rest):
    return {"type": "object", "properties": properties, **rest}


def shape_of(schema, **rest):
    shape, _ = read_schema(from_python(schema_of({"a": schema}, **rest)))
    return shape.fields["a"].shape


def warnings_of(schema):
    return read_schema(from_python(schema_of({"a": schema})))[1]


def refusal(schema):
    with pytest.raises(SchemaError) as caught:
        read_schema(from_python(schema))
    return str(caught.value)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, Kind.STRING),
        ({"type": "integer", "format": "int64"}, Kind.INTEGER),
        ({"type": "number"}, Kind.NUMBER),
        ({"type": "boolean"}, Kind.BOOLEAN),
        ({"type": "array", "items": {"type": "string"}}, Kind.ARRAY),
        ({"type": "object"}, Kind.OBJECT),
        ({"properties": {}}, Kind.OBJECT),
        ({"items": {"type": "string"}}, Kind.ARRAY),
        ({"enum": ["a", "b"]}, Kind.STRING),
        ({"const": 1}, Kind.NUMBER),
        ({"allOf": [{"type": "string"}], "title": "A"}, Kind.STRING),
        ({}, Kind.ANY),
        (True, Kind.ANY),
        ({"type": ["string", "integer"]}, Kind.UNION),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, Kind.UNION),
        ({"enum": ["a", 1]}, Kind.UNION),
    ],
)
def test_each_schema_is_one_kind(schema, kind):
    assert shape_of(schema).kind is kind


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"oneOf": [{"type": "null"}, {"type": "string"}]},
        {"type": ["string", "null"]},
        {"enum": ["a", None]},
    ],
)
def test_a_type_or_null_is_that_type_and_may_be_null(schema):
    shape = shape_of(schema)
    assert shape.kind is Kind.STRING
    assert shape.nullable


def test_an_enumeration_without_null_does_not_admit_null():
    assert not shape_of({"type": ["string", "null"], "enum": ["a"]}).nullable


def test_bounds_and_formats_are_kept():
    shape = shape_of({"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^a", "format": "email"})
    assert (shape.least, shape.most, shape.format) == (1, 5, Format.EMAIL)
    assert shape.pattern is not None
    assert not shape.whole_pattern
    number = shape_of({"type": "number", "minimum": 0, "exclusiveMaximum": 2.5, "multipleOf": 0.5})
    assert number.range == Range(minimum=Decimal(0), below=Decimal("2.5"), multiple_of=Decimal("0.5"))
    array = shape_of({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3, "uniqueItems": True})
    assert (array.least, array.most, array.unique) == (1, 3, True)


def test_an_unknown_format_is_an_annotation():
    assert shape_of({"type": "string", "format": "date-time"}).format is None


def test_local_references_are_resolved():
    shape = shape_of({"$ref": "#/$defs/a~1b", "description": "d"}, **{"$defs": {"a/b": {"type": "integer"}}})
    assert shape.kind is Kind.INTEGER


@pytest.mark.parametrize("schema", [{}, {"type": ["string", "integer"]}, {"type": "array"}])
def test_what_policy_will_not_see_is_said(schema):
    assert "policy does not see it" in warnings_of(schema)[0]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string"}, "must be of type object"),
        ({"type": ["object", "null"]}, "must be of type object"),
        ([], "an object or true"),
        (schema_of({"a": {"type": "text"}}), "`type` is none of"),
        (schema_of({"a": {"not": {"type": "string"}}}), "`not` without `type`"),
        (schema_of({"a": {"type": "string", "if": {}}}), "`if` for string is not enforced"),
        (schema_of({"a": {"type": "object", "patternProperties": {}}}), "`patternProperties` for object"),
        (schema_of({"a": {"type": "number", "maxLength": 3}}), "`maxLength` for number"),
        (schema_of({"a": {"allOf": [{"type": "string"}, {"type": "string"}]}}), "`allOf` of more than one"),
        (schema_of({"a": {"anyOf": [{"type": "string"}], "type": "string"}}), "`type` beside `anyOf`"),
        (schema_of({"a": {"$ref": "#/$defs/a", "type": "string"}}), "`type` beside `$ref`"),
        (schema_of({"a": {"$ref": "https://x.org/a.json"}}), "leaves the document"),
        (schema_of({"a": {"$ref": "#/nowhere"}}), "leads nowhere"),
        (schema_of({"a": {"$ref": "#"}}), "refers to itself"),
        (schema_of({"a": {"$ref": "#/properties/a"}}), "refers to itself"),
        (schema_of({"a": {"type": "string", "pattern": "(?=a)"}}), "not RE2"),
        (schema_of({"a": {"type": "string", "minLength": -1}}), "`minLength`"),
        (schema_of({"a": {"type": "number", "exclusiveMinimum": True}}), "`exclusiveMinimum` is not a number"),
        (schema_of({"a": {"type": "number", "multipleOf": 0}}), "above 0"),
        (schema_of({"a": {"type": "array", "uniqueItems": 1}}), "`uniqueItems`"),
        (schema_of({"a": {"enum": []}}), "`enum`"),
        (schema_of({"a": {"type": "integer", "default": "x"}}), "the default does not fit"),
        (schema_of({}, required=["a"]), "`required` names `a`"),
        (schema_of({"a-b": {"type": "string"}}), "`a-b`: the property is not a name"),
        (schema_of({"é": {"type": "string"}}), "is not a name"),
        (schema_of({"__extn": {"type": "string"}}), "is not a name"),
        (schema_of({"Ab": {"type": "string"}, "aB": {"type": "string"}}), "differ in case only"),
    ],
)
def test_what_would_not_be_enforced_is_refused(schema, says):
    assert says in refusal(schema)


def test_references_cannot_blow_a_schema_up():
    definitions = {"d0": {"type": "string"}}
    for level in range(1, 12):
        inner = {"$ref": f"#/$defs/d{level - 1}"}
        definitions[f"d{level}"] = {"type": "object", "properties": {"a": inner, "b": inner, "c": inner}}
    assert "parts" in refusal(schema_of({"a": {"$ref": "#/$defs/d11"}}, **{"$defs": definitions}))


def test_a_pattern_is_bounded_and_linear():
    with pytest.raises(SchemaError):
        read_pattern("a" * (MAX_PATTERN_CHARACTERS + 1), "a")
    assert read_pattern("(a+)+$", "a").search("a" * 60_000 + "b") is None
