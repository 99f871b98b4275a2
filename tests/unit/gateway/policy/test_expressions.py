import json

import cedarpy
import pytest

from stepgrant_gateway.policy.expressions import (
    Entity,
    conjunction,
    conjuncts,
    constant,
    contradiction,
    depth,
    entities,
    path_of,
    paths,
    strings,
)


def conditions(text: str):
    document = json.loads(cedarpy.policies_to_json_str(f"permit (principal, action, resource) {text};"))
    return document["staticPolicies"]["policy0"]["conditions"]


def condition(text: str):
    return conditions(f"when {{ {text} }}")[0]["body"]


def no_literals(node: object) -> bool | None:
    raise AssertionError(node)


def test_conjuncts_come_in_order_of_evaluation():
    parts = conjuncts(conditions("when { principal.a && (principal.b && principal.c) } unless { principal.d }"))
    assert [path_of(part) for part in parts[:3]] == [("principal", "a"), ("principal", "b"), ("principal", "c")]
    assert path_of(parts[3]["!"]["arg"]) == ("principal", "d")
    assert conjuncts([{"kind": "when", "body": conjunction(parts)}]) == parts


def test_only_what_is_used_counts_as_a_path():
    used = set(paths(condition('context.args.to.contains("a") && context.args has cc && context["args"]["x"] == 1')))
    assert used == {("context", "args", "to"), ("context", "args", "x")}


def test_what_a_computed_record_asks_with_has_is_still_looked_into():
    assert set(paths(condition("{a: context.args.to} has a"))) == {("context", "args", "to")}


def test_literals_are_found_in_scopes_sets_and_conditions():
    node = condition('principal in [Workload::"w", TaskGroup::"g"] && context.x == "text"')
    assert set(entities(node)) == {Entity("Workload", "w"), Entity("TaskGroup", "g")}
    assert list(strings(node)) == ["text"]


@pytest.mark.parametrize(
    ("text", "comes_to"),
    [
        ("principal.a == principal.a", True),
        ("principal.a <= principal.a", True),
        ("principal.a != principal.a", False),
        ("principal.a < principal.a", False),
        ("principal.a.lessThan(principal.a)", False),
        ("!(principal.a == principal.a)", False),
        ('principal.a like "*"', True),
        ('principal.a like "**"', True),
        ('principal.a like "a*"', None),
        ("principal.a.containsAll([])", True),
        ("principal.a.containsAny([])", False),
        ("principal.b || principal.a == principal.a", True),
        ("principal.b && principal.a < principal.a", False),
        ("if principal.a == principal.a then principal.b < principal.b else principal.c", False),
        ("if principal.c then principal.a == principal.a else principal.b >= principal.b", True),
        ("if principal.c then principal.a == principal.a else principal.b", None),
        ("principal.a == principal.b", None),
        ("principal.a && principal.a == principal.a", None),
        ("principal.a == 1", None),
    ],
)
def test_what_compares_a_thing_with_itself_is_constant(text: str, comes_to: bool | None):
    assert constant(condition(text), no_literals) is comes_to


def test_what_has_no_variable_is_left_to_cedar():
    asked = []
    assert constant(condition('1 < 0 || "a" like "b"'), lambda node: bool(asked.append(node))) is False
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("text", "contradicts"),
    [
        ('context.a == "x" && context.a == "y"', True),
        ('"x" == context.a && context.a == "y"', True),
        ('context.a == "x" && context.b == "y"', False),
        ('context.a == "x" && context.a == "x"', False),
        ('context.a == decimal("1.0") && context.a == decimal("1.00")', False),
        ("context.a == [1, 2] && context.a == [2, 1]", False),
        ('context.a == "x" || context.a == "y"', False),
    ],
)
def test_one_attribute_does_not_equal_two_literals(text: str, contradicts: bool):
    assert contradiction(conjuncts(conditions(f"when {{ {text} }}"))) is contradicts


def test_depth_is_counted_without_recursion():
    value: object = 1
    for _ in range(50_000):
        value = [value]
    assert depth(value) == 50_001
    while isinstance(value, list):  # let go of it level by level, or the interpreter recurses
        value = value.pop()
