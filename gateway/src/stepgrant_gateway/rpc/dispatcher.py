"""`Dispatcher`: the dispatchers' face of the gateway."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import grpc

from stepgrant.errors import Denial
from stepgrant.v1 import dispatch_pb2, dispatch_pb2_grpc
from stepgrant_gateway.core.boundary import Assigned, AssignTask, Withdrawn
from stepgrant_gateway.core.errors import NotAllowedError
from stepgrant_gateway.core.principal import METHOD_X509, Peer
from stepgrant_gateway.rpc import wire_dispatch
from stepgrant_gateway.rpc.caller import current_caller
from stepgrant_gateway.rpc.status import abort

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


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
            answer = await self._assigning.assign(peer, wire_dispatch.assign_of(request))
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)
        return wire_dispatch.assign_response(answer)

    async def Withdraw(self, request: dispatch_pb2.WithdrawRequest, context: _Context) -> dispatch_pb2.WithdrawResponse:  # noqa: N802 - gRPC's name
        """Takes an assignment back."""
        try:
            peer = _dispatcher()
            done = await self._assigning.withdraw(peer, wire_dispatch.withdrawn_id_of(request))
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)
        return wire_dispatch.withdraw_response(done)


def _dispatcher() -> Peer:
    """Who calls, proven by X.509-SVID: a token that a proxy has seen must not vouch for what others do."""
    peer = current_caller().peer
    if peer.method != METHOD_X509:
        raise NotAllowedError(f"{peer.spiffe_id} is proven by {peer.method}: a dispatcher shows an X.509-SVID")
    return peer
