"""What a call adds to each budget, exactly."""

from decimal import Decimal

import pytest

from tests.kit.catalogs import admitted, edited, findings_of, invalid, one_tool

NUMBER = {"type": "number"}
LINES = {
    "type": "array",
    "items": {"type": "object", "properties": {"amount": {"type": "number", "default": 2}}},
}


def catalog(properties, members, **rest):
    return one_tool(properties, budgets={"spent": {"sum": members, "per": "task"}}, **rest)


def test_a_count_is_one_for_each_call():
    counting = one_tool({}, budgets={"runs": {"count": ["lab.run"], "per": "workload", "window": "1h"}})
    assert admitted(counting, {}).deltas == {"runs": Decimal(1)}


def test_a_sum_is_the_number_exactly():
    assert admitted(catalog({"a": NUMBER}, ["lab.run.a"]), {"a": 0.1}).deltas == {"spent": Decimal("0.1")}


def test_arrays_count_with_multiplicity():
    numbers = {"type": "array", "items": NUMBER}
    assert admitted(catalog({"a": numbers}, ["lab.run.a"]), {"a": [1, 1, 0.5]}).deltas == {"spent": Decimal("2.5")}


def test_numbers_inside_records_count_and_defaults_are_filled_in():
    call = admitted(catalog({"lines": LINES}, ["lab.run.lines.amount"]), {"lines": [{"amount": 1}, {}]})
    assert call.deltas == {"spent": Decimal(3)}
    tool = catalog({"a": {"type": "integer", "default": 7}}, ["lab.run.a"])
    assert admitted(tool, {}).deltas == {"spent": Decimal(7)}


def test_an_absent_number_adds_nothing():
    assert admitted(catalog({"a": NUMBER}, ["lab.run.a"]), {}).deltas == {"spent": Decimal(0)}


def test_two_arguments_of_one_call_add_up():
    both = catalog({"a": NUMBER, "b": NUMBER}, ["lab.run.a", "lab.run.b"])
    assert admitted(both, {"a": 1, "b": 2}).deltas == {"spent": Decimal(3)}


@pytest.mark.parametrize("amount", [-1, -0.0001])
def test_inv_02_a_negative_summand_is_denied(amount):
    """INV-02: nothing takes from a budget by being called."""
    assert invalid(catalog({"a": NUMBER}, ["lab.run.a"]), {"a": amount}).argument == "a"
    nested = catalog({"lines": LINES}, ["lab.run.lines.amount"])
    assert invalid(nested, {"lines": [{"amount": 5}, {"amount": amount}]}).argument == "lines[1].amount"


def test_a_summand_that_policy_cannot_compare_is_denied_even_when_hidden():
    hidden = catalog({"a": NUMBER}, ["lab.run.a"], arguments={"a": {"hidden": True}})
    assert invalid(hidden, {"a": 0.00001}).argument == "a"
    large = catalog({"a": {"type": "array", "items": NUMBER}}, ["lab.run.a"])
    assert invalid(large, {"a": [900_000_000_000_000, 900_000_000_000_000]}).argument == "a"


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("[orders.refnd.amount]", "names no tool of the catalog Did you mean orders.refund?"),
        ("[orders.refund.amuont]", "there is no `amuont` Did you mean amount?"),
        ("[orders.refund]", "is no number"),
        ("[orders.refund.note]", "is no number"),
        ("[orders.refund.amount.x]", "there is no `x`"),
        ("[orders.refund.amount, orders.refund.amount]", "counts twice"),
    ],
)
def test_a_member_that_is_no_number_of_a_tool_is_refused(new, says):
    assert says in findings_of(edited("[orders.refund.amount]", new))[0]


def test_a_count_takes_tools_only():
    assert "names an argument" in findings_of(edited("[mail.send]", "[mail.send.to]"))[0]
