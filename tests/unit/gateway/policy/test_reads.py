"""What policies read of a context, in every form that Cedar writes it."""

import json

import cedarpy
import pytest

from stepgrant_gateway.policy.reads import EVERYTHING, Reads, reads_of


def reads(condition):
    text = f"permit (principal, action, resource) when {{ {condition} }};"
    return reads_of(json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]["policy0"]["conditions"])


@pytest.mark.parametrize(
    ("condition", "members"),
    [
        ("true", {}),
        ("principal.order_id == resource.x", {}),
        ("context.args.amount == 1", {"args": {"amount"}}),
        ('context["args"]["amount"] == 1', {"args": {"amount"}}),
        ("context.args.deep.er == 1", {"args": {"deep"}}),
        ("context.args has amount", {"args": {"amount"}}),
        ("context.args has deep.er", {"args": {"deep"}}),
        ("context has subject", {"subject": None}),
        ("context has args.amount", {"args": None}),
        ("context.args == {a: 1}", {"args": None}),
        ("context.args.amount == 1 && context.args == {a: 1} && context.args.b", {"args": None}),
        ("context.now > principal.since", {"now": None}),
        ('if context.a.b then context.c.d else {"context": context.e.f}.context', {"a": {"b"}, "c": {"d"}, "e": {"f"}}),
        ('[context.a.b].contains({"has": context.c.d, "Var": context.e.f, ".": context.g.h}["has"])',
         {"a": {"b"}, "c": {"d"}, "e": {"f"}, "g": {"h"}}),
        ('context.a.b like "x*" && context.c.d is X in Y::"1"', {"a": {"b"}, "c": {"d"}}),
        ('context.a.b.getTag("t").c && context.d.e.hasTag(context.f.g)', {"a": {"b"}, "d": {"e"}, "f": {"g"}}),
        ("decimal(context.a.b).lessThan(context.c.d) && -context.e.f < 1", {"a": {"b"}, "c": {"d"}, "e": {"f"}}),
    ],
)  # fmt: skip
def test_members_that_are_read_are_found(condition, members):
    expected = {name: None if names is None else frozenset(names) for name, names in members.items()}
    assert reads(condition) == Reads(expected)


@pytest.mark.parametrize(
    "condition",
    [
        "context == {}",
        "(if true then context else context).args.amount == 1",
        '{"c": context}.c.args.amount == 1',
        "[context].contains({})",
        "(if true then context else context) has args",
    ],
)
def test_a_context_that_is_used_as_a_whole_is_read_whole(condition):
    assert reads(condition) is EVERYTHING


def test_a_record_is_cut_down_to_what_is_read():
    shown = {"a": 1, "b": 2}
    assert Reads({"args": frozenset({"a", "c"})}).only("args", shown) == {"a": 1}
    assert Reads({"args": None}).only("args", shown) == shown
    assert EVERYTHING.of("anything")
    assert EVERYTHING.only("args", shown) == shown
    assert not Reads({}).of("args")
