"""The whole gateway, by its real client, over real mTLS: declared, granted, reported, revoked, dead."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant.errors import Denied, Revoked
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.app.auditing import verify_ledger
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader
from tests.kit.running import running_gateway

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}
ORDERS = "spiffe://dev.stepgrant.test/resource/orders"


@pytest.fixture
async def running():
    async with running_gateway() as running:
        yield running


async def test_a_step_is_declared_granted_and_dead_with_its_end(running):
    client = await running.client()
    watch = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/orders")).Watch(
        verifier_pb2.WatchRequest(audiences=[ORDERS])
    )
    snapshot = (await asyncio.wait_for(watch.read(), 5)).snapshot

    async with client.task("Refund", PARAMETERS) as task, task.step("orders.get", {"order_id": "ord_00000042"}) as step:
        grant_id = step.grant.grant_id

    assert len(snapshot.keys) == 1
    assert snapshot.heartbeat.instance_id == running.gateway.instance_id
    while (event := await asyncio.wait_for(watch.read(), 5)).WhichOneof("event") != "revoked":
        assert event.WhichOneof("event") == "heartbeat"
    assert (event.revoked.grant_id, event.revoked.code) == (grant_id, "completed")


async def test_an_argument_that_is_not_the_tasks_is_denied(running):
    client = await running.client()

    async with client.task("Refund", PARAMETERS) as task:
        with pytest.raises(Denied) as denied:
            async with task.step("orders.refund", {"order_id": "ord_00000043", "amount": 4}):
                pytest.fail("the body ran")

    assert denied.value.denial.code.value == "no_permit"
    assert denied.value.denial.decision_id


async def test_a_workload_that_may_not_open_the_task_type_is_denied(running):
    client = await running.client("agent/other")

    with pytest.raises(Denied):
        async with client.task("Refund", PARAMETERS):
            pytest.fail("the task opened")


async def test_an_operators_lock_ends_the_live_step_and_says_so(running):
    client = await running.client()
    operator = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))

    async def work() -> None:
        async with client.task("Refund", PARAMETERS) as task, task.step("orders.get", {"order_id": "ord_00000042"}):
            granted.set()
            await asyncio.wait_for(asyncio.Event().wait(), 5)

    granted = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        working = group.create_task(surviving(work()))
        await asyncio.wait_for(granted.wait(), 5)
        tasks = (await operator.ListTasks(operator_pb2.ListTasksRequest())).tasks
        steps = (await operator.ListSteps(operator_pb2.ListStepsRequest(task_id=tasks[0].task_id))).steps
        request = operator_pb2.SetLockRequest(selector=types_pb2.Selector(tool="orders.*"), reason="an incident")
        locked = await operator.SetLock(request)

    assert [summary.state for summary in steps] == ["granted"]
    assert (locked.durable, locked.ended_steps) == (True, 1)
    assert isinstance(working.result(), Revoked)
    assert working.result().cause == "locked"


async def surviving(work: Coroutine[Any, Any, None]) -> BaseException | None:
    """What the work ended with."""
    try:
        await work
    except Revoked as error:
        return error
    return None


async def test_who_is_not_listed_operates_nothing(running):
    stub = operator_pb2_grpc.OperatorStub(await running.channel("agent/support"))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.ListTasks(operator_pb2.ListTasksRequest())

    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_resource_cannot_watch_what_is_another_ones(running):
    stub = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/mail"))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Watch(verifier_pb2.WatchRequest(audiences=[ORDERS])).read()

    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_without_a_certificate_does_not_even_hear_health(running):
    roots = running.domain.bundle.pem
    channel = grpc.aio.secure_channel(f"localhost:{running.gateway.port}", grpc.ssl_channel_credentials(roots))
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_healthy_gateway_says_serving(running):
    stub = health_pb2_grpc.HealthStub(await running.channel("agent/other"))

    answer = await stub.Check(health_pb2.HealthCheckRequest())

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_rotation_of_svids_is_announced_and_streams_go_on(running):
    watch = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/orders")).Watch(
        verifier_pb2.WatchRequest(audiences=[ORDERS])
    )
    before = (await asyncio.wait_for(watch.read(), 5)).snapshot.keys[0]

    running.api.rotate()
    while (event := await asyncio.wait_for(watch.read(), 5)).WhichOneof("event") != "key":
        pass

    assert event.key.kid == before.kid
    assert list(event.key.svid_chain) != list(before.svid_chain)


async def test_what_happened_is_in_the_ledger_and_its_chain_holds(tmp_path):
    path = tmp_path / "ledger.db"
    async with running_gateway(ledger=path) as running:
        client = await running.client()
        async with client.task("Refund", PARAMETERS) as task, task.step("orders.get", {"order_id": "ord_00000042"}):
            pass
        operator = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))
        records = [record async for record in operator.TailLedger(operator_pb2.TailLedgerRequest())]

    reader = SqliteLedgerReader(path)
    verified = verify_ledger(reader)
    reader.close()
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    assert verified.chains[0].stopped
    assert verified.events > len(records)


async def test_a_gateway_that_stops_says_so_to_its_streams():
    async with running_gateway() as running:
        watch = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/orders")).Watch(
            verifier_pb2.WatchRequest(audiences=[ORDERS])
        )
        await asyncio.wait_for(watch.read(), 5)
        stack = running.stack.pop_all()

    async def rest() -> None:
        while await watch.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(rest(), 5)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    await stack.aclose()
