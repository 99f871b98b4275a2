"""Messages of dispatchers into values of the core and back: read strictly, or refused with the field that is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import Denial, InvalidIdError, ProtocolError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1 import dispatch_pb2
from stepgrant_gateway.core.boundary import Assigned, AssignTask, Withdrawn
from stepgrant_gateway.rpc import wire
from stepgrant_gateway.rpc.limits import MAX_ID, MAX_TEXT

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_LATEST_MS: Final = 253402300799000
"""End of the year 9999, the last that a datetime holds."""


def assign_of(message: dispatch_pb2.AssignRequest) -> AssignTask:
    """What is to be assigned.

    Raises:
        ProtocolError: a field is not what the protocol says.
        ArgumentsInvalidError: the parameters are not strict JSON.
    """
    refuse_unknown(message)
    if not 0 < message.until_unix_ms <= _LATEST_MS:
        raise ProtocolError("AssignRequest.until_unix_ms is out of range")
    try:
        workload = parse_spiffe_id(wire.bounded(message.workload, MAX_ID, "AssignRequest.workload"))
    except InvalidIdError as error:
        raise ProtocolError(f"AssignRequest.workload: {error}") from error
    if not workload.path:
        raise ProtocolError(f"AssignRequest.workload: {workload} names a trust domain and no workload")
    return AssignTask(
        ticket=wire.ticket_field(message.ticket, "AssignRequest.ticket"),
        workload=str(workload),
        task_type=wire.bounded(message.task_type, 128, "AssignRequest.task_type", least=1),
        parameters=wire.parameters_of(message),
        purpose=wire.bounded(message.purpose, MAX_TEXT, "AssignRequest.purpose"),
        until=_EPOCH + timedelta(milliseconds=message.until_unix_ms),
    )


def withdrawn_id_of(message: dispatch_pb2.WithdrawRequest) -> str:
    """The id of the assignment that is to be taken back; raises ProtocolError if it is none."""
    refuse_unknown(message)
    return wire.ulid_field(message.assignment_id, "WithdrawRequest.assignment_id")


def assign_response(answer: Assigned | Denial) -> dispatch_pb2.AssignResponse:
    """The answer to an assignment."""
    if isinstance(answer, Denial):
        return dispatch_pb2.AssignResponse(denied=wire.denied(answer))
    return dispatch_pb2.AssignResponse(
        assigned=dispatch_pb2.Assigned(assignment_id=answer.assignment_id, state=answer.state)
    )


def withdraw_response(done: Withdrawn) -> dispatch_pb2.WithdrawResponse:
    """The answer to a withdrawal."""
    return dispatch_pb2.WithdrawResponse(ended_task_id=done.ended_task_id, durable=done.durable)
