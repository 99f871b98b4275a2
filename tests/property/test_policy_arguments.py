"""Whatever the schema: nothing undeclared passes, nothing is rounded, and policy sees what was sent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import from_python, parse_value
from stepgrant_gateway.policy.arguments import MAX_DECIMAL, admit
from stepgrant_gateway.policy.json_schema import read_schema
from stepgrant_gateway.policy.schema import derive_schema
from stepgrant_gateway.policy.shapes import Kind, Shape
from tests.kit.catalogs import one_tool

NAMES = st.sampled_from(["a", "b", "c", "in", "like"])
SCALARS = st.sampled_from([("string", "x"), ("integer", 7), ("number", 0.5), ("boolean", True)])
UNKNOWN = "undeclared"


@st.composite
def typed_values(draw: st.DrawFn, depth: int = 3) -> tuple[dict[str, Any], Any]:
    """A schema, and a value that it admits."""
    kind = draw(st.sampled_from(["scalar", "array", "object"] if depth else ["scalar"]))
    if kind == "scalar":
        name, value = draw(SCALARS)
        return {"type": name}, value
    if kind == "array":
        schema, value = draw(typed_values(depth - 1))
        return {"type": "array", "items": schema}, [value]
    return draw(objects(depth))


@st.composite
def objects(draw: st.DrawFn, depth: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema of an object that says nothing useful about further properties, and a value that it admits."""
    members = draw(st.dictionaries(NAMES, typed_values(depth - 1), max_size=3))
    schema: dict[str, Any] = {"type": "object", "properties": {name: schema for name, (schema, _) in members.items()}}
    further = draw(st.sampled_from([None, True, {"type": "string"}, {}]))
    if further is not None:
        schema["additionalProperties"] = further
    schema["required"] = sorted(draw(st.sets(st.sampled_from(sorted(members)))) if members else [])
    return schema, {name: value for name, (_, value) in members.items()}


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Every object in a value, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    found = [value] if isinstance(value, dict) else []
    return found + [one for item in inner for one in objects_in(item)]


@given(objects(), st.data())
def test_inv_02_an_undeclared_property_at_any_depth_is_always_denied(pair, data):
    """INV-02: an undeclared argument is a denial at every depth."""
    schema, value = pair
    shape, _ = read_schema(from_python(schema))
    admit(shape, from_python(value))
    data.draw(st.sampled_from(objects_in(value)))[UNKNOWN] = "x"
    with pytest.raises(ArgumentsInvalidError) as refused:
        admit(shape, from_python(value))
    assert UNKNOWN in refused.value.argument


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-(2**53 - 1), max_value=2**53 - 1))
def test_inv_02_a_number_is_shown_exactly_or_denied(number):
    """INV-02: no number is rounded on its way to policy."""
    value = from_python(number)
    assert isinstance(value, Decimal)
    try:
        seen = admit(Shape(Kind.NUMBER), value, "n")
    except ArgumentsInvalidError:
        assert abs(value) > MAX_DECIMAL or value.as_tuple().exponent < -4
        return
    assert Decimal(seen["__extn"]["arg"]) == value


@given(st.integers(-(2**53) + 1, 2**53 - 1), st.sampled_from(["", ".0", "E+1", ".5"]))
def test_inv_02_an_integer_is_one_as_written_or_denied(number, tail):
    """INV-02: an integer has neither fraction nor exponent."""
    try:
        value = parse_value(f"{number}{tail}")
    except ArgumentsInvalidError:
        return
    shape = Shape(Kind.INTEGER)
    if tail == "":
        assert admit(shape, value) == number
    else:
        with pytest.raises(ArgumentsInvalidError):
            admit(shape, value)


@given(objects(2))
def test_what_is_admitted_is_what_the_derived_schema_expects(pair):
    schema, value = pair
    catalog = one_tool(schema["properties"], required=tuple(schema["required"]))
    call = catalog.prepare_call("lab.run", from_python(value))
    context = {
        **call.view,
        "task": {"labels": [], "completed": [], "reported": [], "denials": 0, "age": extension("duration", "0ms")},
        "step": {"depth": 1, "chain": []},
        "budget": {},
        "peer": {"method": "x509"},
        "now": extension("datetime", "2026-11-21T12:00:00.000Z"),
    }
    request = {
        "principal": 'Task::Job::"1"',
        "action": 'Action::"lab.run"',
        "resource": 'Target::"lab://one"',
        "context": context,
    }
    policies = cedarpy.PolicySet.from_str("permit (principal, action, resource);")
    result = cedarpy.is_authorized(request, policies, [], cedarpy.Schema.from_str(derive_schema(catalog)))
    assert result.allowed, result.diagnostics.errors


def extension(function: str, argument: str) -> dict[str, Any]:
    """Cedar's JSON form of an extension value."""
    return {"__extn": {"fn": function, "arg": argument}}
