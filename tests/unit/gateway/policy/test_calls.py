"""`calls:` is the envelope of the children, bound to the parent's own arguments."""

from decimal import Decimal

import pytest

from stepgrant_gateway.core.delegation import AnyValue, AtMost, Exact, OneOf, Prefix, SubsetOf
from stepgrant_gateway.policy.catalog import load_catalog
from tests.kit.catalogs import admitted, catalog_files, edited, findings_of

OWN = 'orders.get: {order_id: "{order_id}"}'


def envelope(new, arguments=None):
    catalog = load_catalog(edited(OWN, new))
    call = admitted(catalog, arguments or {"order_id": "o1", "amount": 5}, "orders.refund")
    assert call.envelope is not None
    return call.envelope.tools


def test_a_tool_without_calls_has_no_children():
    assert admitted(load_catalog(catalog_files()), {"order_id": "o1"}, "orders.get").envelope is None


def test_the_parents_own_argument_is_exact():
    assert envelope(OWN) == {"orders.get": {"order_id": Exact("o1")}}


def test_each_constraint_has_its_form():
    assert envelope(
        "{orders.search: {query: {one_of: [a, b]}, limit: {at_most: 5}}, "
        "mail.send: {to: {subset_of: [jo@x.org]}, subject: {exact: Hi}, body: any}, "
        "orders.get: {order_id: {prefix: a/b}}}"
    ) == {
        "orders.search": {"query": OneOf(("a", "b")), "limit": AtMost(Decimal(5))},
        "mail.send": {"to": SubsetOf(("jo@x.org",)), "subject": Exact("Hi"), "body": AnyValue()},
        "orders.get": {"order_id": Prefix("a/b")},
    }


def test_an_argument_that_the_parent_did_not_pass_is_refused_to_the_child():
    template = 'orders.search: {query: any}\n          orders.refund: {order_id: any, amount: any, note: "{note}"}'
    assert "note" not in envelope(template)["orders.refund"]
    passed = envelope(template, {"order_id": "o1", "amount": 5, "note": "n"})
    assert passed["orders.refund"]["note"] == Exact("n")


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("orders.gett: {order_id: any}", "is no tool Did you mean orders.get?"),
        ("orders.get: {order: any}", "no argument `order` Did you mean order_id?"),
        ("orders.get: {}", "takes `order_id`"),
        ('orders.get: {order_id: "{order}"}', "has no argument `order` Did you mean order_id?"),
        ('orders.get: {order_id: "{amount}"}', "is string, and `amount` is number"),
        ("orders.get: {order_id: o1}", "write a value as {exact: value}"),
        ("orders.get: {order_id: {exact: 5}}", "could never be that"),
        ("orders.get: {order_id: {exakt: o1}}", "Did you mean exact?"),
        ("orders.get: {order_id: {}}", "has one of"),
        ("orders.get: {order_id: {exact: a, prefix: b}}", "has one of"),
        ("orders.get: {order_id: {at_most: 5}}", "is no number"),
        ("orders.get: {order_id: {subset_of: [a]}}", "is no array"),
        ("orders.get: {order_id: {one_of: []}}", "lists no value"),
        ("orders.search: {query: any, limit: {prefix: a}}", "is no string"),
        ("orders.search: {query: any, limit: {one_of: [1, 1000]}}", "could never be that"),
    ],
)
def test_what_could_never_hold_is_refused_with_its_line(new, says):
    found = findings_of(edited(OWN, new))[0]
    assert says in found
    line = catalog_files()["catalog.yaml"].decode().partition(OWN)[0].count("\n") + 1
    assert found.startswith(f"catalog.yaml:{line}: ")
