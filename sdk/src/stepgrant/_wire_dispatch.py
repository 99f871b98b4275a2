"""Messages of the dispatcher's calls from values, and values from the gateway's answers; what the protocol does not allow is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant._wire import read_denied
from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import Denial, InvalidIdError, ProtocolError
from stepgrant.ids import parse_ulid
from stepgrant.v1 import dispatch_pb2

WITHDRAWN: Final = "withdrawn"
"""The state of an assignment that opens nothing any more."""
_STATES: Final = frozenset({"open", "taken", WITHDRAWN})
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def assign_message(
    *, ticket: bytes, workload: str, task_type: str, parameters_json: str, purpose: str, until: datetime
) -> dispatch_pb2.AssignRequest:
    """What asks for an assignment; `until` is aware."""
    return dispatch_pb2.AssignRequest(
        ticket=ticket,
        workload=workload,
        task_type=task_type,
        parameters_json=parameters_json,
        purpose=purpose,
        until_unix_ms=(until - _EPOCH) // timedelta(milliseconds=1),
    )


def read_assigned(response: dispatch_pb2.AssignResponse) -> tuple[str, str] | Denial:
    """The id of the assignment and its state, or why there is none; raises ProtocolError."""
    refuse_unknown(response)
    if response.WhichOneof("answer") != "assigned":
        return read_denied(response.denied)
    if response.assigned.state not in _STATES:
        raise ProtocolError("the gateway's assignment is in an unknown state; use the same release on both sides")
    return _id(response.assigned.assignment_id, "assignment_id"), response.assigned.state


def withdraw_message(*, assignment_id: str) -> dispatch_pb2.WithdrawRequest:
    """What takes an assignment back."""
    return dispatch_pb2.WithdrawRequest(assignment_id=assignment_id)


def read_withdrawn(response: dispatch_pb2.WithdrawResponse) -> str:
    """The id of the task that ended with the assignment, empty if none was open; raises ProtocolError."""
    refuse_unknown(response)
    return _id(response.ended_task_id, "ended_task_id") if response.ended_task_id else ""


def _id(text: str, what: str) -> str:
    try:
        return parse_ulid(text, what)
    except InvalidIdError as error:
        raise ProtocolError(f"in the gateway's answer {error}") from error
