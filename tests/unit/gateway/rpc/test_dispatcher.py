"""The dispatchers' face: what goes over the wire, and what is refused before anything is looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest

from stepgrant.errors import Denial, DenialCode, ProtocolError
from stepgrant.v1 import agent_pb2, dispatch_pb2, dispatch_pb2_grpc
from stepgrant_gateway.core.errors import AssignmentExistsError
from stepgrant_gateway.rpc import wire
from tests.kit.clock import START
from tests.kit.face import AGENT, ASSIGNMENT, INSTANCE, TASK, Face, serving

UNTIL = START + timedelta(hours=1)
ASSIGN: dict[str, Any] = {
    "ticket": b"t" * 32,
    "workload": "spiffe://acme.org/agent/support",
    "task_type": "Refund",
    "parameters_json": '{"n":1}',
    "purpose": "INC-4711",
    "until_unix_ms": wire.millis(UNTIL),
}


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    face = Face()
    async with serving(face) as channel:
        face.stub = dispatch_pb2_grpc.DispatcherStub(channel)  # type: ignore[attr-defined]
        yield face


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_an_assignment_is_read_as_it_was_written(face: Any) -> None:
    answer = await face.stub.Assign(dispatch_pb2.AssignRequest(**ASSIGN))
    assert (answer.assigned.assignment_id, answer.assigned.state) == (ASSIGNMENT, "open")
    [(peer, request)] = face.assigning.asked
    assert peer == AGENT
    assert (request.ticket, request.workload) == (ASSIGN["ticket"], ASSIGN["workload"])
    assert (request.task_type, dict(request.parameters)) == ("Refund", {"n": Decimal(1)})
    assert (request.purpose, request.until) == ("INC-4711", UNTIL)


async def test_a_denial_is_an_answer_and_no_failure(face: Any) -> None:
    face.assigning.answer = Denial(DenialCode.NO_PERMIT, "no policy permits this.", "ask.")
    answer = await face.stub.Assign(dispatch_pb2.AssignRequest(**ASSIGN))
    assert (answer.WhichOneof("answer"), answer.denied.code) == ("denied", "no_permit")


async def test_a_ticket_of_another_assignment_already_exists(face: Any) -> None:
    face.assigning.answer = AssignmentExistsError("the ticket stands for another assignment")
    code, _ = await refused(face.stub.Assign(dispatch_pb2.AssignRequest(**ASSIGN)))
    assert code is grpc.StatusCode.ALREADY_EXISTS


async def test_what_is_out_of_bounds_is_refused_and_nobody_is_asked(face: Any) -> None:
    code, details = await refused(face.stub.Assign(dispatch_pb2.AssignRequest(**{**ASSIGN, "ticket": b""})))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "a ticket has 32" in details
    assert not face.assigning.asked


async def test_inv_11_an_unknown_field_is_refused(face: Any) -> None:
    request = dispatch_pb2.AssignRequest.FromString(
        dispatch_pb2.AssignRequest(**ASSIGN).SerializeToString() + b"\xf8\x01\x01"
    )
    code, _ = await refused(face.stub.Assign(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_dispatcher_that_is_not_proven_by_an_x509_svid_is_refused(face: Any) -> None:
    face.peer = replace(AGENT, method="jwt")
    calls = (
        face.stub.Assign(dispatch_pb2.AssignRequest(**ASSIGN)),
        face.stub.Withdraw(dispatch_pb2.WithdrawRequest(assignment_id=ASSIGNMENT)),
    )
    for call in calls:
        code, details = await refused(call)
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "X.509-SVID" in details


async def test_a_withdrawal_says_what_ended_with_it(face: Any) -> None:
    done = await face.stub.Withdraw(dispatch_pb2.WithdrawRequest(assignment_id=ASSIGNMENT))
    assert (done.ended_task_id, done.durable) == (TASK, True)
    code, _ = await refused(face.stub.Withdraw(dispatch_pb2.WithdrawRequest(assignment_id=INSTANCE)))
    assert code is grpc.StatusCode.NOT_FOUND
    code, _ = await refused(face.stub.Withdraw(dispatch_pb2.WithdrawRequest(assignment_id="x")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_an_opening_has_a_whole_ticket_and_no_resume_token_beside_it() -> None:
    assert wire.assignment_of(agent_pb2.Open()) == b""
    assert wire.assignment_of(agent_pb2.Open(assignment=b"t" * 32)) == b"t" * 32
    for wrong in (agent_pb2.Open(assignment=b"t"), agent_pb2.Open(assignment=b"t" * 32, resume_token=b"r" * 32)):
        with pytest.raises(ProtocolError, match="Open"):
            wire.assignment_of(wrong)
