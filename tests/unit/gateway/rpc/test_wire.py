"""Messages of the agent, read into values: bounds first, then meaning."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from stepgrant.errors import ArgumentsInvalidError, Denial, DenialCode, ProtocolError
from stepgrant.v1 import agent_pb2, types_pb2
from stepgrant.v1.types_pb2 import ArgumentConstraint, Envelope, EnvelopeTool
from stepgrant_gateway.core.delegation import AnyValue, AtMost, Exact, OneOf, Prefix, SubsetOf
from stepgrant_gateway.rpc.wire import (
    declare_of,
    denied,
    envelope_of,
    granted,
    hand_off_of,
    hand_off_ticket_of,
    report_of,
)
from tests.kit.face import GRANT, STEP
from tests.kit.face import granted as a_grant

ARGUMENTS = '{"order_id":"ord_1","amount":1.50}'


def declaring(**changes) -> agent_pb2.Declare:
    fields = {"step_id": STEP, "tool": "orders.refund", "arguments_json": ARGUMENTS}
    return agent_pb2.Declare(**(fields | changes))


def enveloped(*constraints: ArgumentConstraint, tool: str = "orders.get") -> Envelope:
    return Envelope(tools=[EnvelopeTool(tool=tool, arguments=constraints)])


def test_a_declare_is_read_whole():
    step = declare_of(declaring(parent_step_id=GRANT.replace("GRANT", "PARNT"), purpose="pay back", wanted_ttl_ms=1500))

    assert (step.step_id, step.tool, step.purpose) == (STEP, "orders.refund", "pay back")
    assert step.arguments == {"order_id": "ord_1", "amount": Decimal("1.50")}
    assert step.wanted_ttl == timedelta(seconds=1.5)
    assert step.envelope is None


def test_no_parent_and_no_lifetime_are_none():
    step = declare_of(declaring())

    assert (step.parent_step_id, step.wanted_ttl) == (None, None)


@pytest.mark.parametrize(
    ("constraint", "value"),
    [
        (ArgumentConstraint(argument="a", exact_json='{"b": 1}'), Exact({"b": Decimal(1)})),
        (ArgumentConstraint(argument="a", one_of_json='[1, "x"]'), OneOf((Decimal(1), "x"))),
        (ArgumentConstraint(argument="a", subset_of_json='["x"]'), SubsetOf(("x",))),
        (ArgumentConstraint(argument="a", at_most="100.50"), AtMost(Decimal("100.50"))),
        (ArgumentConstraint(argument="a", prefix="inbox/"), Prefix("inbox/")),
        (ArgumentConstraint(argument="a", any=True), AnyValue()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_constraint_is_read(constraint, value):
    assert envelope_of(enveloped(constraint)).tools == {"orders.get": {"a": value}}


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(),
        Envelope(tools=[EnvelopeTool(tool=f"orders.t{number}") for number in range(33)]),
        Envelope(tools=[EnvelopeTool(tool="orders.get"), EnvelopeTool(tool="orders.get")]),
        enveloped(tool="orders"),
        enveloped(*(ArgumentConstraint(argument=f"a{number}", any=True) for number in range(65))),
        enveloped(ArgumentConstraint(argument="a", any=True), ArgumentConstraint(argument="a", at_most="1")),
        enveloped(ArgumentConstraint(argument="a b", any=True)),
        enveloped(ArgumentConstraint(argument="a")),
        enveloped(ArgumentConstraint(argument="a", any=False)),
        enveloped(ArgumentConstraint(argument="a", at_most="1e9")),
        enveloped(ArgumentConstraint(argument="a", at_most="NaN")),
        enveloped(ArgumentConstraint(argument="a", at_most="1" * 33)),
        enveloped(ArgumentConstraint(argument="a", prefix="")),
        enveloped(ArgumentConstraint(argument="a", prefix="p" * 2049)),
        enveloped(ArgumentConstraint(argument="a", one_of_json='"x"')),
    ],
    ids=range(15),
)
def test_an_envelope_that_the_protocol_does_not_allow_is_refused(envelope):
    """INV-09: an envelope is read exactly or not at all."""
    with pytest.raises(ProtocolError):
        envelope_of(envelope)


@pytest.mark.parametrize("text", ["{", '"' + "x" * 9000 + '"', '{"a":1,"a":2}', "1]}, {[1"])
def test_json_in_an_envelope_is_strict_too(text):
    with pytest.raises(ArgumentsInvalidError):
        envelope_of(enveloped(ArgumentConstraint(argument="a", exact_json=text)))


def handing(**changes) -> agent_pb2.HandOff:
    envelope = enveloped(ArgumentConstraint(argument="order_id", exact_json='"ord_1"'))
    fields = {"step_id": STEP, "workload": "spiffe://acme.org/agent/payments", "envelope": envelope, "purpose": "check"}
    return agent_pb2.HandOff(**(fields | changes))


def test_a_hand_off_is_read_whole():
    step = hand_off_of(handing())

    assert (step.step_id, step.workload, step.purpose) == (STEP, "spiffe://acme.org/agent/payments", "check")
    assert step.envelope.tools == {"orders.get": {"order_id": Exact("ord_1")}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"step_id": STEP.lower()}, "HandOff.step_id"),
        ({"workload": ""}, "HandOff.workload"),
        ({"workload": "spiffe://acme.org/a//b"}, "HandOff.workload"),
        ({"envelope": None}, "Envelope.tools"),
        ({"purpose": "x" * 1025}, "HandOff.purpose"),
    ],
)
def test_id_16_a_hand_off_that_says_not_what_or_not_to_whom_is_refused(changes, named):
    with pytest.raises(ProtocolError, match=named):
        hand_off_of(handing(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"hand_off": b"t" * 31}, {"resume_token": b"r" * 32}, {"assignment": b"a" * 32}, {"subject_token": "a.b.c"}],
)
def test_id_16_a_branch_is_opened_with_its_ticket_alone(changes):
    assert hand_off_ticket_of(agent_pb2.Open()) == b""
    assert hand_off_ticket_of(agent_pb2.Open(hand_off=b"t" * 32)) == b"t" * 32
    with pytest.raises(ProtocolError, match="hand_off"):
        hand_off_ticket_of(agent_pb2.Open(**{"hand_off": b"t" * 32, **changes}))


def test_a_report_is_read_whole():
    report = report_of(
        agent_pb2.Report(
            step_id=STEP, outcome=types_pb2.OUTCOME_FAILED, result_sha256=b"r" * 32, error_class="TimeoutError"
        )
    )

    assert (report.outcome.value, report.result_sha256, report.error_class) == ("failed", b"r" * 32, "TimeoutError")


def test_a_denial_says_everything_within_its_bounds():
    message = denied(
        Denial(
            DenialCode.OVERLOADED, "r" * 2000, "n" * 2000, "a" * 300, "D", "S", retry_after=timedelta(milliseconds=50)
        )
    )

    assert (message.code, len(message.reason), len(message.next), len(message.argument)) == (
        "overloaded",
        1024,
        1024,
        256,
    )
    assert (message.decision_id, message.step_id, message.retry_after_ms) == ("D", "S", 50)


def test_a_grant_leaves_no_field_unsaid():
    message = granted(a_grant(STEP))

    assert {field.name for field, _ in message.ListFields()} == {field.name for field in message.DESCRIPTOR.fields}
