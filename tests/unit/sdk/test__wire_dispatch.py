"""Messages of the dispatcher's calls: written whole, and read only as the protocol allows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from stepgrant._wire_dispatch import assign_message, read_assigned, read_withdrawn, withdraw_message
from stepgrant.errors import Denial, DenialCode, ProtocolError
from stepgrant.v1 import dispatch_pb2, types_pb2

ID, TASK = "01KAJ7RM000000000000ASSGNT", "01KAJ7RM00000000000000TASK"
UNTIL = datetime(2026, 11, 22, 12, tzinfo=UTC)


def response(assignment_id: str = ID, state: str = "open") -> dispatch_pb2.AssignResponse:
    return dispatch_pb2.AssignResponse(assigned=dispatch_pb2.Assigned(assignment_id=assignment_id, state=state))


def with_unknown(message: Any) -> Any:
    """The same message, with a field that this release does not know."""
    return type(message).FromString(message.SerializeToString() + b"\xf8\x01\x01")


@pytest.mark.parametrize("until", [UNTIL, UNTIL.astimezone(timezone(timedelta(hours=-5)))])
def test_an_order_is_written_whole_and_its_time_is_the_same_in_every_zone(until: datetime) -> None:
    said = {
        "workload": "spiffe://acme.org/agent",
        "task_type": "Refund",
        "parameters_json": "{}",
        "purpose": "INC-4711",
    }
    message = assign_message(ticket=b"t" * 32, until=until, **said)
    assert message == dispatch_pb2.AssignRequest(ticket=b"t" * 32, until_unix_ms=int(UNTIL.timestamp()) * 1000, **said)
    assert withdraw_message(assignment_id=ID).assignment_id == ID


@pytest.mark.parametrize("state", ["open", "taken", "withdrawn"])
def test_an_answer_is_the_assignment_and_its_state_or_a_denial(state: str) -> None:
    assert read_assigned(response(state=state)) == (ID, state)
    denied = types_pb2.Denied(code="no_permit", reason="no", next="ask")
    answer = read_assigned(dispatch_pb2.AssignResponse(denied=denied))
    assert isinstance(answer, Denial)
    assert answer.code is DenialCode.NO_PERMIT


@pytest.mark.parametrize(
    "answer",
    [
        dispatch_pb2.AssignResponse(),
        response(state="lent"),
        response(state=""),
        response("x"),
        response(ID.lower()),
        dispatch_pb2.AssignResponse(denied=types_pb2.Denied(code="asked_too_nicely", reason="no")),
        with_unknown(response()),
    ],
    ids=["neither", "state", "no state", "id", "lower case", "code", "unknown field"],
)
def test_inv_11_an_answer_that_the_protocol_does_not_allow_is_not_believed(answer: dispatch_pb2.AssignResponse) -> None:
    with pytest.raises(ProtocolError):
        read_assigned(answer)


def test_a_withdrawal_is_answered_by_the_task_that_ended_or_by_none() -> None:
    assert read_withdrawn(dispatch_pb2.WithdrawResponse(ended_task_id=TASK)) == TASK
    assert read_withdrawn(dispatch_pb2.WithdrawResponse()) == ""
    for wrong in (dispatch_pb2.WithdrawResponse(ended_task_id="x"), with_unknown(dispatch_pb2.WithdrawResponse())):
        with pytest.raises(ProtocolError):
            read_withdrawn(wrong)
