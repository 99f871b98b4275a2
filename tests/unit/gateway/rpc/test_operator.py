"""What operators ask of the gateway, on loopback: only those that gateway.toml lists."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import grpc
import pytest

from stepgrant.selector import Selector
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2
from stepgrant_gateway.core.errors import Finding, NotFoundError
from stepgrant_gateway.core.ledger import Record
from stepgrant_gateway.core.revocation import Lock
from stepgrant_gateway.core.views import StepView, TaskView
from tests.kit.clock import START
from tests.kit.face import AGENT, INSTANCE, STEP, TASK, Face, serving

ME = str(AGENT.spiffe_id)
LOCK = Lock(STEP, Selector(tool="orders.*"), "an incident", START, ME)


class FakeOperating:
    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def tasks(self):
        return [TaskView(TASK, "Refund", ME, START, START, 1, 2, ("confidential",), "agent", "")]

    def steps(self, task_id):
        if task_id != TASK:
            raise NotFoundError(f"no task {task_id} is open")
        return [StepView(STEP, "orders.get", "pg://orders/1", "granted", "", START, None, None)]

    async def set_lock(self, selector, reason, by):
        self.asked.append((selector, reason, by))
        return SimpleNamespace(lock=LOCK, durable=False, ended_steps=3)

    async def lift_lock(self, lock_id, reason, by):
        self.asked.append((lock_id, reason, by))
        return LOCK

    def locks(self):
        return [LOCK]

    async def reload_policy(self, by):
        finding = Finding("support.cedar", 7, "refund", "has no @id", "refund")
        return SimpleNamespace(activated=False, policy_digest="sha256:0", findings=(finding,), ended_steps=0, cases=2)


async def tail(after: int, follow: bool):
    yield Record(INSTANCE, after + 1, b"p" * 32, b"h" * 32, b"{}")
    if follow:
        await asyncio.Event().wait()


@pytest.fixture
async def face():
    operating = FakeOperating()
    face = Face(operating, tail, frozenset({ME}))
    face.operating = operating
    async with serving(face) as channel:
        face.stub = operator_pb2_grpc.OperatorStub(channel)
        yield face


REQUESTS = {
    "ListTasks": operator_pb2.ListTasksRequest(),
    "ListSteps": operator_pb2.ListStepsRequest(task_id=TASK),
    "SetLock": operator_pb2.SetLockRequest(selector=types_pb2.Selector(tool="orders.*"), reason="an incident"),
    "LiftLock": operator_pb2.LiftLockRequest(lock_id=STEP, reason="over"),
    "ListLocks": operator_pb2.ListLocksRequest(),
    "ReloadPolicy": operator_pb2.ReloadPolicyRequest(),
    "TailLedger": operator_pb2.TailLedgerRequest(),
}


async def outcome(stub, method: str, request):
    call = getattr(stub, method)(request, timeout=5)
    return [message async for message in call] if method == "TailLedger" else await call


def test_there_is_a_request_here_for_every_method_of_the_service():
    assert set(REQUESTS) == {method.name for method in operator_pb2.DESCRIPTOR.services_by_name["Operator"].methods}


@pytest.mark.parametrize("method", REQUESTS)
async def test_who_is_not_listed_may_call_nothing(method):
    """INV-11: no operator by default."""
    face = Face(FakeOperating(), tail, frozenset())
    async with serving(face) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await outcome(operator_pb2_grpc.OperatorStub(channel), method, REQUESTS[method])

    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "gateway.toml" in error.value.details()
    assert face.denied == [(f"Operator: {type(REQUESTS[method]).__name__}", f"{ME} is not an operator")]


@pytest.mark.parametrize("method", REQUESTS)
async def test_an_unknown_field_is_refused_at_every_method(face, method):
    """INV-11: unknown fields are refused."""
    request = REQUESTS[method]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await outcome(face.stub, method, type(request).FromString(request.SerializeToString() + b"\xfa\x07\x01x"))

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_tasks_and_steps_are_listed(face):
    tasks = (await face.stub.ListTasks(REQUESTS["ListTasks"])).tasks
    steps = (await face.stub.ListSteps(REQUESTS["ListSteps"])).steps

    assert (tasks[0].task_id, list(tasks[0].labels)) == (TASK, ["confidential"])
    assert (steps[0].step_id, steps[0].expires_unix_ms, steps[0].parent_step_id) == (STEP, 0, "")


async def test_steps_of_a_task_that_is_not_open_are_not_found(face):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await face.stub.ListSteps(operator_pb2.ListStepsRequest(task_id=STEP))

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_lock_is_set_and_lifted_in_the_name_of_the_caller(face):
    done = await face.stub.SetLock(REQUESTS["SetLock"])
    lifted = await face.stub.LiftLock(REQUESTS["LiftLock"])
    locks = (await face.stub.ListLocks(REQUESTS["ListLocks"])).locks

    assert (done.lock.lock_id, done.durable, done.ended_steps) == (STEP, False, 3)
    assert lifted.lock.selector.tool == locks[0].selector.tool == "orders.*"
    assert locks[0].issued_by == ME


@pytest.mark.parametrize(
    "request_",
    [
        operator_pb2.SetLockRequest(reason="why"),
        operator_pb2.SetLockRequest(selector=types_pb2.Selector(), reason="why"),
        operator_pb2.SetLockRequest(selector=types_pb2.Selector(tool="orders.*")),
        operator_pb2.SetLockRequest(selector=types_pb2.Selector(task_type="T" * 129), reason="why"),
        operator_pb2.LiftLockRequest(lock_id="x", reason="why"),
        operator_pb2.LiftLockRequest(lock_id=STEP),
    ],
    ids=["no selector", "empty selector", "no reason", "long type", "no ULID", "no reason to lift"],
)
async def test_a_lock_out_of_bounds_is_refused(face, request_):
    method = "SetLock" if isinstance(request_, operator_pb2.SetLockRequest) else "LiftLock"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await outcome(face.stub, method, request_)

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_refused_reload_says_file_line_and_nearest_name(face):
    answer = await face.stub.ReloadPolicy(REQUESTS["ReloadPolicy"])

    assert not answer.activated
    assert (answer.findings[0].file, answer.findings[0].line, answer.findings[0].nearest) == (
        "support.cedar",
        7,
        "refund",
    )


async def test_the_ledger_is_streamed_to_its_head_or_on(face):
    records = await outcome(face.stub, "TailLedger", operator_pb2.TailLedgerRequest(after_sequence=4))
    following = face.stub.TailLedger(operator_pb2.TailLedgerRequest(follow=True))
    first = await asyncio.wait_for(following.read(), 5)
    face.live.drain()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(following.read(), 5)

    assert [record.sequence for record in records] == [5]
    assert (first.sequence, first.body) == (1, b"{}")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_finding_in_a_file_whose_name_is_no_text_is_told_all_the_same(face):
    finding = Finding("bad\udcff.cedar", 1, "", "This is not UTF-8: \udcff", "")
    outcome_ = SimpleNamespace(activated=False, policy_digest="sha256:0", findings=(finding,), ended_steps=0, cases=0)

    async def reload(by):
        return outcome_

    face.operating.reload_policy = reload
    assert (await face.stub.ReloadPolicy(REQUESTS["ReloadPolicy"])).findings[0].file == "bad?.cedar"
