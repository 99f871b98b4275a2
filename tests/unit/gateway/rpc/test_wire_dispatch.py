"""Messages of dispatchers: read as they were written, or refused with the field that is wrong."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from stepgrant.errors import Denial, DenialCode, InvalidInputError, ProtocolError
from stepgrant.v1 import dispatch_pb2
from stepgrant_gateway.core.boundary import Assigned, Withdrawn
from stepgrant_gateway.rpc import wire, wire_dispatch
from tests.kit.clock import START
from tests.kit.face import ASSIGNMENT, TASK

UNTIL = START + timedelta(hours=1)
ASSIGN: dict[str, Any] = {
    "ticket": b"t" * 32,
    "workload": "spiffe://acme.org/agent/support",
    "task_type": "Refund",
    "parameters_json": '{"n":1}',
    "purpose": "INC-4711",
    "until_unix_ms": wire.millis(UNTIL),
}


def with_unknown(message: Any) -> Any:
    """The same message, with a field that this release does not know."""
    return type(message).FromString(message.SerializeToString() + b"\xf8\x01\x01")


def test_an_assignment_is_read_as_it_was_written() -> None:
    read = wire_dispatch.assign_of(dispatch_pb2.AssignRequest(**ASSIGN))
    assert (read.ticket, read.workload) == (b"t" * 32, "spiffe://acme.org/agent/support")
    assert (read.task_type, dict(read.parameters)) == ("Refund", {"n": Decimal(1)})
    assert (read.purpose, read.until) == ("INC-4711", UNTIL)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ticket": b""}, "a ticket has 32"),
        ({"ticket": b"t" * 31}, "a ticket has 32"),
        ({"workload": "agent/support"}, "does not begin with spiffe://"),
        ({"workload": "spiffe://acme.org"}, "names a trust domain and no workload"),
        ({"workload": "spiffe://acme.org/" + "a" * 2048}, "AssignRequest.workload"),
        ({"task_type": ""}, "AssignRequest.task_type"),
        ({"parameters_json": "[]"}, "parameters"),
        ({"parameters_json": '{"n":1,"n":2}'}, "parameters"),
        ({"purpose": "p" * 1025}, "AssignRequest.purpose"),
        ({"until_unix_ms": 0}, "until_unix_ms"),
        ({"until_unix_ms": -1}, "until_unix_ms"),
        ({"until_unix_ms": 2**62}, "until_unix_ms"),
    ],
)
def test_what_is_out_of_bounds_is_refused_and_the_field_named(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        wire_dispatch.assign_of(dispatch_pb2.AssignRequest(**{**ASSIGN, **changed}))


def test_inv_11_unknown_fields_are_refused() -> None:
    with pytest.raises(ProtocolError):
        wire_dispatch.assign_of(with_unknown(dispatch_pb2.AssignRequest(**ASSIGN)))
    with pytest.raises(ProtocolError):
        wire_dispatch.withdrawn_id_of(with_unknown(dispatch_pb2.WithdrawRequest(assignment_id=ASSIGNMENT)))


def test_a_withdrawal_names_an_assignment() -> None:
    assert wire_dispatch.withdrawn_id_of(dispatch_pb2.WithdrawRequest(assignment_id=ASSIGNMENT)) == ASSIGNMENT
    for wrong in ("", "x", ASSIGNMENT.lower()):
        with pytest.raises(ProtocolError, match=r"WithdrawRequest\.assignment_id"):
            wire_dispatch.withdrawn_id_of(dispatch_pb2.WithdrawRequest(assignment_id=wrong))


def test_answers_are_written_whole() -> None:
    made = wire_dispatch.assign_response(Assigned(ASSIGNMENT, "taken")).assigned
    assert (made.assignment_id, made.state) == (ASSIGNMENT, "taken")
    denied = wire_dispatch.assign_response(Denial(DenialCode.NO_PERMIT, "no policy permits this.", "ask.")).denied
    assert (denied.code, denied.reason, denied.next) == ("no_permit", "no policy permits this.", "ask.")
    done = wire_dispatch.withdraw_response(Withdrawn(TASK, durable=False))
    assert (done.ended_task_id, done.durable) == (TASK, False)
