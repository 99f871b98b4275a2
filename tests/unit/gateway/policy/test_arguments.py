"""Arguments are admitted as they are, or denied with the path and the fix (INV-02)."""

from decimal import Decimal

import pytest

from stepgrant.errors import ArgumentsInvalidError
from stepgrant_gateway.policy.arguments import MAX_DECIMAL, cedar_decimal
from tests.kit.catalogs import admitted, invalid, one_tool

DECIMAL = lambda text: {"__extn": {"fn": "decimal", "arg": text}}
ANY_OBJECT = {"type": "object"}


def view(properties, given, **rest):
    return admitted(one_tool(properties, **rest), given).view


def denial(properties, given, **rest):
    return invalid(one_tool(properties, **rest), given)


@pytest.mark.parametrize(
    ("schema", "value", "seen"),
    [
        ({"type": "string"}, "é", "é"),
        ({"type": "integer"}, 7, 7),
        ({"type": "integer"}, 2**53 - 1, 2**53 - 1),
        ({"type": "number"}, 7, DECIMAL("7.0000")),
        ({"type": "number"}, -98.7, DECIMAL("-98.7000")),
        ({"type": "number"}, Decimal("1E+2"), DECIMAL("100.0000")),
        ({"type": "boolean"}, False, False),
        ({"type": "array", "items": {"type": "integer"}}, [2, 1, 2], [2, 1, 2]),
        ({"type": "object", "properties": {"x": {"type": "string"}}}, {"x": "y"}, {"x": "y"}),
        (ANY_OBJECT, {}, {}),
        ({"type": "string", "pattern": "b"}, "abc", "abc"),
        ({"type": "string", "enum": ["a", "b"]}, "b", "b"),
        ({"type": "number", "multipleOf": 0.1}, 0.3, DECIMAL("0.3000")),
    ],
)
def test_each_type_has_its_form_for_policy(schema, value, seen):
    assert view({"a": schema}, {"a": value})["args"] == {"a": seen}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, 1),
        ({"type": "string"}, None),
        ({"type": "integer"}, "1"),
        ({"type": "integer"}, 1.5),
        ({"type": "integer"}, Decimal("1.0")),
        ({"type": "integer"}, True),
        ({"type": "number"}, "1"),
        ({"type": "number"}, True),
        ({"type": "boolean"}, 1),
        ({"type": "array", "items": {"type": "string"}}, "a"),
        ({"type": "array", "items": {"type": "string"}}, [None]),
        (ANY_OBJECT, []),
        ({"type": "string", "minLength": 2}, "é"),
        ({"type": "string", "maxLength": 1}, "ab"),
        ({"type": "string", "pattern": "^b"}, "ab"),
        ({"type": "string", "pattern": "b$"}, "b\n"),
        ({"type": "string", "enum": ["a"]}, "A"),
        ({"type": "number", "minimum": 1}, 0.9999),
        ({"type": "number", "maximum": 1}, 1.0001),
        ({"type": "number", "exclusiveMinimum": 0}, 0),
        ({"type": "number", "exclusiveMaximum": 1}, 1),
        ({"type": "integer", "multipleOf": 3}, 4),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, []),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, [1, 2]),
        ({"type": "array", "items": {"type": "number"}, "uniqueItems": True}, [1, Decimal("1.0")]),
        ({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}, {}),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, True),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 1),
    ],
)
def test_inv_02_an_ill_typed_argument_is_denied(schema, value):
    """INV-02: an ill-typed argument is a denial that names the argument."""
    assert denial({"a": schema}, {"a": value}).argument.startswith("a")


@pytest.mark.parametrize("written", ["1.0", "1E+2", "10e-1"])
def test_an_integer_is_written_without_fraction_and_exponent(written):
    text = f'{{"a": {written}}}'
    assert denial({"a": {"type": "integer"}}, text).argument == "a"
    assert view({"a": {"type": "number"}}, text)


@pytest.mark.parametrize(
    ("schema", "value", "argument"),
    [
        ({"type": "object", "properties": {"x": ANY_OBJECT}}, {"x": {"y": 1}}, "a.x.y"),
        ({"type": "array", "items": ANY_OBJECT}, [{}, {"y": 1}], "a[1].y"),
        ({"type": "object", "additionalProperties": True}, {"y": 1}, "a.y"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"y": "1"}, "a.y"),
        ({}, {"y": 1}, "a.y"),
        ({"type": "array"}, [[{"y": 1}]], "a[0][0].y"),
        ({"anyOf": [ANY_OBJECT, {"type": "string"}]}, {"y": 1}, "a"),
    ],
)
def test_inv_02_an_undeclared_argument_is_denied_at_every_depth(schema, value, argument):
    """INV-02: a property that the schema does not name is a denial, whatever additionalProperties says."""
    assert denial({"a": schema}, {"a": value}).argument == argument
    assert denial({"a": schema}, {"b": 1}).argument == "b"


def test_free_form_admits_what_nothing_names_unseen():
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    said = {"a": {"free_form": True}}
    assert view({"a": schema}, {"a": {"x": "1", "y": {"z": 1}}}, arguments=said)["args"] == {"a": {"x": "1"}}
    assert view({"a": {}}, {"a": {"y": 1}}, arguments=said)["args"] == {}
    assert denial({"a": schema}, {"a": {"x": 1}}, arguments=said).argument == "a.x"


def test_inv_02_a_number_that_does_not_fit_is_denied_and_never_rounded():
    """INV-02: an unrepresentable argument is a denial."""
    refused = denial({"amount": {"type": "number"}}, {"amount": 98.70001})
    assert (refused.argument, refused.next) == ("amount", "round `amount` to 4 decimals")
    assert denial({"amount": {"type": "number"}}, {"amount": 2**53 - 1}).argument == "amount"
    assert cedar_decimal(MAX_DECIMAL) == DECIMAL("922337203685477.5807")
    with pytest.raises(ArgumentsInvalidError):
        cedar_decimal(MAX_DECIMAL + Decimal("0.0001"))


def test_a_hidden_number_may_have_any_precision_and_is_not_shown():
    said = {"amount": {"hidden": True}}
    assert view({"amount": {"type": "number"}}, {"amount": 98.70001}, arguments=said)["args"] == {}


def test_null_counts_as_absent_only_where_it_is_the_default():
    text_or_null = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert view({"a": {**text_or_null, "default": None}}, {"a": None})["args"] == {}
    assert denial({"a": text_or_null}, {"a": None}).argument == "a"
    assert denial({"a": {**text_or_null, "default": "x"}}, {"a": None}).argument == "a"
    assert view({"a": text_or_null}, {})["args"] == {}
    assert view({"a": text_or_null}, {"a": "x"})["args"] == {"a": "x"}


def test_a_default_is_filled_in_for_policy_and_not_in_the_digest():
    catalog = one_tool({"a": {"type": "integer", "default": 20}})
    absent, given = admitted(catalog, {}), admitted(catalog, {"a": 20})
    assert absent.view["args"] == given.view["args"] == {"a": 20}
    assert absent.arguments == {}
    assert absent.args_sha256 != given.args_sha256


def test_a_missing_argument_is_named():
    assert denial({"a": {"type": "string"}}, {}, required=("a",)).argument == "a"


def test_no_text_holds_a_value():
    for schema in ({"type": "integer"}, {"type": "string", "enum": ["a"]}, {"type": "string", "format": "email"}):
        refused = denial({"a": schema}, {"a": "s3cret"})
        assert "s3cret" not in refused.reason + refused.next
