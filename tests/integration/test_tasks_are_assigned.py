"""A ticket system assigns, an agent opens with it, once, over real mTLS; what the agent makes up is denied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepgrant
from stepgrant.client import Client
from stepgrant.errors import DenialCode, Denied, MisuseError
from stepgrant.handed import Assignment
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2
from stepgrant_gateway.app.auditing import verify_ledger
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader
from tests.kit.assigned import DESK, PURPOSE, write_assigned
from tests.kit.running import Running, running_gateway

REFUND: dict[str, Any] = {"order_id": "ord_00000042", "customer": "jo@x.org"}
AGENT = "spiffe://dev.stepgrant.test/agent/support"
ORDER = {"order_id": "ord_00000042"}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_gateway(write_assigned(tmp_path), ledger=tmp_path / "ledger.sqlite") as running:
        yield running


def until(hours: int = 1) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)


async def test_a_task_is_assigned_handed_over_as_text_and_opened_once(running: Running) -> None:
    desk, agent = await running.client("desk/tickets"), await running.client()
    with pytest.raises(Denied) as invented:
        async with agent.task("Refund", REFUND):
            pytest.fail("nobody assigned it")
    assert invented.value.denial.code is DenialCode.NO_PERMIT

    async with desk:
        assignment = await stepgrant.assign("Refund", REFUND, to=AGENT, until=until(), purpose=PURPOSE)
    slip = assignment.slip()
    handed = Assignment.read(slip)
    assert handed == assignment
    assert handed.parameters["order_id"] == "ord_00000042"
    async with agent, stepgrant.task(handed) as task:
        async with task.step("orders.get", ORDER) as step:
            assert step.grant.audience
        operator = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))
        [summary] = (await operator.ListTasks(operator_pb2.ListTasksRequest())).tasks
        assert (summary.vouched_by, summary.dispatcher) == ("assignment", DESK)
        with pytest.raises(Denied) as again:
            async with agent.task(handed):
                pytest.fail("it was used")
        assert again.value.denial.code is DenialCode.ASSIGNMENT_REFUSED
    with pytest.raises(Denied) as other:
        async with (await running.client("agent/other")).task(handed):
            pytest.fail("it was assigned to another workload")
    assert (other.value.denial.code, other.value.denial.reason) == (again.value.denial.code, again.value.denial.reason)


async def test_a_dispatcher_that_asks_again_gets_the_same_assignment(running: Running) -> None:
    desk = await running.client("desk/tickets")
    end, ticket = until(), b"t" * 32
    first = await desk.assign("Refund", REFUND, to=AGENT, until=end, ticket=ticket)
    assert await desk.assign("Refund", REFUND, to=AGENT, until=end, ticket=ticket) == first
    with pytest.raises(MisuseError, match="stands for another assignment"):
        await desk.assign("Refund", REFUND, to=AGENT, until=until(2), ticket=ticket)
    with pytest.raises(Denied) as nobody:
        await (await running.client("agent/other")).assign("Refund", REFUND, to=AGENT, until=end)
    assert nobody.value.denial.code is DenialCode.NO_PERMIT


@pytest.mark.parametrize("by", ["withdrawal", "lock"])
async def test_a_task_ends_with_its_assignment_and_with_its_dispatcher(running: Running, by: str) -> None:
    desk, agent = await running.client("desk/tickets"), await running.client()
    assignment = await desk.assign("Refund", REFUND, to=AGENT, until=until())
    with pytest.raises(stepgrant.Revoked) as ended:
        async with agent.task(assignment) as task, task.step("orders.get", ORDER):
            if by == "withdrawal":
                assert await desk.withdraw(assignment) == task.id
            else:
                operator = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))
                selector = types_pb2.Selector(workload=DESK)
                await operator.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="compromised"))
            # The end of the step cancels this.
            await asyncio.wait_for(asyncio.Event().wait(), 10)
    assert ended.value.cause == {"withdrawal": "assignment_withdrawn", "lock": "dispatcher_locked"}[by]
    with pytest.raises(MisuseError, match="no assignment of that id"):
        await agent.withdraw(assignment)


async def test_an_assignment_outlives_the_gateway_that_made_it(tmp_path: Path) -> None:
    policy, ledger = write_assigned(tmp_path), tmp_path / "ledger.sqlite"
    async with running_gateway(policy, ledger=ledger) as running:
        desk = await running.client("desk/tickets")
        used = await desk.assign("Refund", REFUND, to=AGENT, until=until())
        waits = await desk.assign("Refund", REFUND, to=AGENT, until=until())
        async with (await running.client()).task(used):
            pass
    async with running_gateway(policy, ledger=ledger) as running:
        agent: Client = await running.client()
        with pytest.raises(Denied) as again:
            async with agent.task(used):
                pytest.fail("it was used before")
        assert again.value.denial.code is DenialCode.ASSIGNMENT_REFUSED
        async with agent.task(waits) as task:
            assert task.open
    assert verify_ledger(SqliteLedgerReader(ledger)).events
