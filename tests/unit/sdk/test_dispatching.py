"""The dispatcher's calls: what is sent, what a gateway that is away or busy costs, and which answers are believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from stepgrant import dispatching
from stepgrant.dispatching import Order
from stepgrant.errors import Denial, DenialCode, GatewayUnavailableError, MisuseError, ProtocolError
from stepgrant.v1 import dispatch_pb2, dispatch_pb2_grpc, types_pb2

ID, TASK = "01KAJ7RM000000000000ASSGNT", "01KAJ7RM00000000000000TASK"
UNTIL = datetime(2026, 11, 22, 12, tzinfo=UTC)
ORDER = Order(b"t" * 32, "spiffe://acme.org/agent", "Refund", '{"n":1}', "INC-4711", UNTIL)
ASSIGNED = dispatch_pb2.AssignResponse(assigned=dispatch_pb2.Assigned(assignment_id=ID, state="open"))


def denied(code: str, after_ms: int = 0) -> dispatch_pb2.AssignResponse:
    return dispatch_pb2.AssignResponse(
        denied=types_pb2.Denied(code=code, reason="no", next="", retry_after_ms=after_ms)
    )


@dataclass(slots=True)
class Gateway(dispatch_pb2_grpc.DispatcherServicer):
    """Gives the answers of a test, in their order: messages, statuses, or a status and when to come back."""

    answers: list[Any]
    asked: list[Any] = field(default_factory=list)

    async def _answer(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, tuple):
            await context.abort(answer[0], "said so", (("stepgrant-retry-after-ms", str(answer[1])),))
        if isinstance(answer, grpc.StatusCode):
            await context.abort(answer, "said so")
        return answer

    async def Assign(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return await self._answer(request, context)

    async def Withdraw(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return await self._answer(request, context)


@dataclass(slots=True)
class OneLink:
    """`Links` with one channel: fresh the first time, as after a drop."""

    link: Any
    old: bool = False
    taken: int = 0
    dropped: int = 0

    async def acquire(self) -> tuple[Any, bool]:
        self.taken += 1
        fresh, self.old = not self.old, True
        return self.link, fresh

    def release(self, link: Any) -> None:
        self.taken -= 1

    def drop(self, link: Any) -> None:
        self.dropped, self.old = self.dropped + 1, False


@asynccontextmanager
async def asking(*answers: Any, old: bool = False) -> AsyncIterator[tuple[Any, Gateway]]:
    gateway, server = Gateway(list(answers)), grpc.aio.server()
    dispatch_pb2_grpc.add_DispatcherServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        links = OneLink(SimpleNamespace(channel=channel), old)
        yield links, gateway
        assert links.taken == 0
    await server.stop(0)


async def test_an_order_is_sent_as_it_is_and_answered_by_the_id_of_the_assignment() -> None:
    async with asking(ASSIGNED) as (links, gateway):
        assert await dispatching.assign(links, ORDER) == ID
    [request] = gateway.asked
    assert (request.ticket, request.workload, request.task_type) == (b"t" * 32, "spiffe://acme.org/agent", "Refund")
    assert (request.parameters_json, request.purpose) == ('{"n":1}', "INC-4711")
    assert request.until_unix_ms == UNTIL.timestamp() * 1000


async def test_a_denial_is_a_value_and_one_that_says_when_to_come_back_is_asked_again() -> None:
    async with asking(denied("overloaded", 1), denied("no_permit")) as (links, gateway):
        answer = await dispatching.assign(links, ORDER)
    assert isinstance(answer, Denial)
    assert answer.code is DenialCode.NO_PERMIT
    # Word for word, so that it can be asked again.
    assert gateway.asked[0] == gateway.asked[1]


async def test_a_gateway_that_has_too_much_to_do_is_asked_again_when_it_says() -> None:
    async with asking((grpc.StatusCode.RESOURCE_EXHAUSTED, 1), ASSIGNED) as (links, _):
        assert await dispatching.assign(links, ORDER) == ID


async def test_a_connection_that_was_lost_is_made_anew_once() -> None:
    async with asking(grpc.StatusCode.UNAVAILABLE, ASSIGNED, old=True) as (links, _):
        assert await dispatching.assign(links, ORDER) == ID
        assert links.dropped == 1
    async with asking(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, old=True) as (links, _):
        with pytest.raises(GatewayUnavailableError):
            await dispatching.assign(links, ORDER)


async def test_a_withdrawal_says_which_task_ended() -> None:
    ended = dispatch_pb2.WithdrawResponse(ended_task_id=TASK, durable=True)
    async with asking(ended, dispatch_pb2.WithdrawResponse()) as (links, _):
        assert await dispatching.withdraw(links, ID) == TASK
        assert await dispatching.withdraw(links, ID) == ""


async def test_a_ticket_of_another_assignment_and_an_assignment_of_another_are_the_callers_mistakes() -> None:
    withdrawn = dispatch_pb2.AssignResponse(assigned=dispatch_pb2.Assigned(assignment_id=ID, state="withdrawn"))
    async with asking(withdrawn, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND) as (links, _):
        with pytest.raises(MisuseError, match="was withdrawn"):
            await dispatching.assign(links, ORDER)
        with pytest.raises(MisuseError, match="stands for another assignment"):
            await dispatching.assign(links, ORDER)
        with pytest.raises(MisuseError, match="no assignment of that id"):
            await dispatching.withdraw(links, ID)


async def test_inv_11_an_answer_that_the_protocol_does_not_allow_is_not_believed() -> None:
    async with asking(dispatch_pb2.AssignResponse(), dispatch_pb2.WithdrawResponse(ended_task_id="x")) as (links, _):
        with pytest.raises(ProtocolError):
            await dispatching.assign(links, ORDER)
        with pytest.raises(ProtocolError):
            await dispatching.withdraw(links, ID)
