"""The dispatcher's calls: tasks are assigned, and assignments taken back. What is asked again comes to the same."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from stepgrant._status import error_of
from stepgrant._wire_dispatch import WITHDRAWN, assign_message, read_assigned, read_withdrawn, withdraw_message
from stepgrant.errors import Denial, GatewayUnavailableError, InvalidIdError, MisuseError
from stepgrant.handed import TICKET_BYTES
from stepgrant.patience import Patience
from stepgrant.session import ANSWER_TIMEOUT, Opening
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1.dispatch_pb2_grpc import DispatcherStub

if TYPE_CHECKING:
    from stepgrant.link import Links

_MISUSES: Final = {
    grpc.StatusCode.ALREADY_EXISTS: "the ticket stands for another assignment: leave it out, or ask with the same words",
    grpc.StatusCode.NOT_FOUND: "this workload has made no assignment of that id, or it is over",
    grpc.StatusCode.UNIMPLEMENTED: "tasks are assigned at the listener for X.509-SVIDs: set STEPGRANT_CREDENTIAL to x509",
}
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be assigned to whom. `parameters_json` is canonical JSON (RFC 8785); `until` is aware."""

    ticket: bytes = field(repr=False)
    workload: str
    task_type: str
    parameters_json: str = field(repr=False)
    purpose: str
    until: datetime


def order_of(opening: Opening, to: str, until: datetime, ticket: bytes | None) -> Order:
    """The order for a task that opens so, under this ticket or a new one; raises MisuseError for what can be none."""
    try:
        parse_spiffe_id(to, what="the workload that the task is for")
    except InvalidIdError as error:
        raise MisuseError(f"{error}: write it as spiffe://trust-domain/path") from error
    if until.tzinfo is None:
        raise MisuseError(
            "`until` has no time zone: give an aware datetime, such as datetime.now(UTC) + timedelta(hours=1)"
        )
    if ticket is not None and len(ticket) != TICKET_BYTES:
        raise MisuseError(f"a ticket has {TICKET_BYTES} random bytes, such as os.urandom({TICKET_BYTES})")
    ticket = ticket or os.urandom(TICKET_BYTES)
    return Order(ticket, to, opening.task_type, opening.parameters_json, opening.purpose, until)


async def assign(links: Links, order: Order) -> str | Denial:
    """The id of the assignment, durable, or why there is none.

    Raises:
        MisuseError: the ticket stands for other words, or for what was withdrawn.
        GatewayUnavailableError, IdentityUnavailableError: the gateway could not be asked.
    """
    request = assign_message(
        ticket=order.ticket,
        workload=order.workload,
        task_type=order.task_type,
        parameters_json=order.parameters_json,
        purpose=order.purpose,
        until=order.until,
    )
    patience = Patience()
    while True:
        response = await _ask(
            links, patience, lambda stub: stub.Assign(request, timeout=ANSWER_TIMEOUT.total_seconds())
        )
        answer = read_assigned(response)
        if not isinstance(answer, Denial):
            assignment_id, state = answer
            if state == WITHDRAWN:
                raise MisuseError("what was assigned under this ticket was withdrawn: leave the ticket out")
            return assignment_id
        if not await patience.waits(answer):
            return answer


async def withdraw(links: Links, assignment_id: str) -> str:
    """The assignment opens nothing any more; the id of the task that ended with it, empty if none was open.

    Raises:
        MisuseError: this workload has made no such assignment, or it is over.
        GatewayUnavailableError, IdentityUnavailableError: the gateway could not be asked.
    """
    request = withdraw_message(assignment_id=assignment_id)
    response = await _ask(
        links, Patience(), lambda stub: stub.Withdraw(request, timeout=ANSWER_TIMEOUT.total_seconds())
    )
    return read_withdrawn(response)


async def _ask(links: Links, patience: Patience, ask: Callable[[Any], Awaitable[_Answer]]) -> _Answer:
    while True:
        link, fresh = await links.acquire()
        try:
            return await ask(DispatcherStub(link.channel))
        except grpc.aio.AioRpcError as error:
            misuse = _MISUSES.get(error.code())
            if misuse is not None:
                raise MisuseError(misuse) from error
            failure = error_of(error.code(), error.details(), error.trailing_metadata() or ())
            if not isinstance(failure, GatewayUnavailableError):
                raise failure from error
            if failure.retry_after is None and not fresh:
                links.drop(link)  # The pin may be that of an earlier certificate of the gateway: probe again.
            elif not await patience.waits(failure):
                raise failure from error
        finally:
            links.release(link)
