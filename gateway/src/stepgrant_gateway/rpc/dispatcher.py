"""`Dispatcher`: the dispatchers' face of the gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeAlias

import grpc

from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import Denial, InvalidIdError, ProtocolError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1 import dispatch_pb2, dispatch_pb2_grpc
from stepgrant_gateway.core.boundary import Assigned, AssignTask, Withdrawn
from stepgrant_gateway.core.errors import NotAllowedError
from stepgrant_gateway.core.principal import METHOD_X509, Peer
from stepgrant_gateway.rpc import wire
from stepgrant_gateway.rpc.caller import current_caller
from stepgrant_gateway.rpc.limits import MAX_ID, MAX_TEXT
from stepgrant_gateway.rpc.status import abort

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_LATEST_MS: Final = 253402300799000
"""End of the year 9999, the last that a datetime holds."""


class Assigner(Protocol):
    """What makes assignments and takes them back (`app.assigning.Assigning`)."""

    async def assign(self, peer: Peer, request: AssignTask) -> Assigned | Denial:
        """The assignment, or why not."""

    async def withdraw(self, peer: Peer, assignment_id: str) -> Withdrawn:
        """Ends an assignment, and the task that was opened with it."""


class DispatcherService(dispatch_pb2_grpc.DispatcherServicer):
    """Serves dispatchers. Policy decides who is one."""

    def __init__(self, assigning: Assigner) -> None:
        self._assigning = assigning

    async def Assign(self, request: dispatch_pb2.AssignRequest, context: _Context) -> dispatch_pb2.AssignResponse:  # noqa: N802 - gRPC's name
        """Assigns a task to a workload."""
        try:
            peer = _dispatcher()
            refuse_unknown(request)
            answer = await self._assigning.assign(peer, _assign_of(request))
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)
        if isinstance(answer, Denial):
            return dispatch_pb2.AssignResponse(denied=wire.denied(answer))
        assigned = dispatch_pb2.Assigned(assignment_id=answer.assignment_id, state=answer.state)
        return dispatch_pb2.AssignResponse(assigned=assigned)

    async def Withdraw(self, request: dispatch_pb2.WithdrawRequest, context: _Context) -> dispatch_pb2.WithdrawResponse:  # noqa: N802 - gRPC's name
        """Takes an assignment back."""
        try:
            peer = _dispatcher()
            refuse_unknown(request)
            assignment_id = wire.ulid_field(request.assignment_id, "WithdrawRequest.assignment_id")
            done = await self._assigning.withdraw(peer, assignment_id)
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)
        return dispatch_pb2.WithdrawResponse(ended_task_id=done.ended_task_id, durable=done.durable)


def _dispatcher() -> Peer:
    """Who calls, proven by X.509-SVID: a token that a proxy has seen must not vouch for what others do."""
    peer = current_caller().peer
    if peer.method != METHOD_X509:
        raise NotAllowedError(f"{peer.spiffe_id} is proven by {peer.method}: a dispatcher shows an X.509-SVID")
    return peer


def _assign_of(message: dispatch_pb2.AssignRequest) -> AssignTask:
    """What is to be assigned.

    Raises:
        ProtocolError: a field is not what the protocol says.
        ArgumentsInvalidError: the parameters are not strict JSON.
    """
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
