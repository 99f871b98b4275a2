"""An envelope is read in the form that `calls:` has in the catalog, or refused by the name of what is wrong."""

from __future__ import annotations

from decimal import Decimal

import pytest

from stepgrant._wire import hand_off_message
from stepgrant.envelope import Constraint, Form, read_envelope
from stepgrant.errors import MisuseError
from stepgrant_gateway.core.delegation import AnyValue, AtMost, Exact, OneOf, Prefix, SubsetOf
from stepgrant_gateway.rpc.wire import envelope_of

STEP = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
BOUNDS = {
    "orders.get": {"order_id": {"exact": "ord_1"}, "note": "any"},
    "files.read": {"path": {"prefix": "/reports"}, "mode": {"one_of": ["r", None, 1.5]}, "most": {"at_most": 100}},
    "mail.send": {"to": {"subset_of": ("jo@x.org", "mo@x.org")}},
    "clock.now": {},
}


def test_the_gateway_reads_what_was_meant() -> None:
    message = hand_off_message(step_id=STEP, workload="spiffe://a/b", envelope=read_envelope(BOUNDS), purpose="p")
    assert envelope_of(message.envelope).tools == {
        "orders.get": {"order_id": Exact("ord_1"), "note": AnyValue()},
        "files.read": {
            "path": Prefix("/reports"),
            "mode": OneOf(("r", None, Decimal("1.5"))),
            "most": AtMost(Decimal(100)),
        },
        "mail.send": {"to": SubsetOf(("jo@x.org", "mo@x.org"))},
        "clock.now": {},
    }
    assert (message.step_id, message.workload, message.purpose) == (STEP, "spiffe://a/b", "p")


@pytest.mark.parametrize("bound", [0.1, Decimal("1E+3"), 1e-7, -5, Decimal("-0.0")])
def test_a_bound_is_a_plain_decimal(bound: object) -> None:
    envelope = read_envelope({"orders.refund": {"amount": {"at_most": bound}}})
    message = hand_off_message(step_id=STEP, workload="spiffe://a/b", envelope=envelope, purpose="")
    read = envelope_of(message.envelope).tools["orders.refund"]["amount"]
    assert read == AtMost(Decimal(str(bound)))


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (None, "name what its branch may do"),
        ({}, "name what its branch may do"),
        ("orders.get", "name what its branch may do"),
        ({"get": {}}, r"server\.tool"),
        ({1: {}}, r"server\.tool"),
        ({"orders.get": None}, "orders.get in an envelope is to be a mapping"),
        ({"orders.get": ["order_id"]}, "orders.get in an envelope is to be a mapping"),
        ({"orders.get": {"order id": "any"}}, "is not a name"),
        ({"orders.get": {"order_id": "secret"}}, 'order_id of orders.get is to be "any"'),
        ({"orders.get": {"order_id": "{order_id}"}}, 'order_id of orders.get is to be "any"'),
        ({"orders.get": {"order_id": {}}}, 'order_id of orders.get is to be "any"'),
        ({"orders.get": {"order_id": {"exact": "secret", "prefix": "secret"}}}, 'is to be "any"'),
        ({"orders.get": {"order_id": {"equals": "secret"}}}, "is to be one of exact, one_of"),
        ({"orders.get": {"order_id": {"any": True}}}, 'is to be the text "any"'),
        ({"orders.get": {"order_id": {"one_of": "secret"}}}, "is to be a list of values"),
        ({"orders.get": {"order_id": {"one_of": {"secret"}}}}, "of type set, which JSON cannot carry"),
        ({"orders.get": {"order_id": {"at_most": "secret"}}}, "is to be a number"),
        ({"orders.get": {"order_id": {"at_most": 1e-40}}}, "is to be 32 bytes at most"),
        ({"orders.get": {"order_id": {"prefix": ""}}}, "is to be a text that is not empty"),
        ({"orders.get": {"order_id": {"prefix": "secret" * 400}}}, "is to be 2048 bytes at most"),
        ({"orders.get": {"order_id": {"exact": "secret" * 1400}}}, "is to be 8192 bytes at most"),
        ({f"orders.t{number}": {} for number in range(33)}, "at most 32 tools, this one 33"),
        ({"orders.get": {f"a{number}": "any" for number in range(65)}}, "at most 64 arguments of orders.get"),
    ],
)
def test_what_is_no_envelope_is_misuse_and_no_value_is_told(bounds: object, why: str) -> None:
    with pytest.raises(MisuseError, match=why) as refused:
        read_envelope(bounds)
    assert "secret" not in str(refused.value)


def test_no_value_stands_in_the_repr() -> None:
    assert "secret" not in repr(Constraint("order_id", Form.EXACT, '"secret"'))
