"""A support agent hands a refund on to payments, over real mTLS: one branch, by whom it names, at a resource that verifies it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepgrant.client import Client
from stepgrant.compact import from_base64url
from stepgrant.errors import DenialCode, Denied, Revoked, TaskClosedError
from stepgrant.grant import from_payload
from stepgrant.handed import HandOff
from stepgrant.link import Address
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.step import Step
from stepgrant.tasks import Task
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2
from stepgrant_gateway.app.auditing import verify_ledger
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader
from tests.faults.proxy import Proxy, proxy
from tests.faults.waiting import eventually
from tests.kit.handing import PAYMENTS, write_handed
from tests.kit.loop import interrupted
from tests.kit.running import ISSUER, Running, running_gateway
from tests.kit.servers import bare_channel, call, orders_server

SUPPORT = "spiffe://dev.stepgrant.test/agent/support"
WORDS: dict[str, Any] = {"order_id": "ord_00000042", "customer": "jo@x.org"}
GET = {"order_id": "ord_00000042"}
PAY = {"order_id": "ord_00000042", "amount": 40}
BOUNDS = {"orders.get": {"order_id": {"exact": "ord_00000042"}}}


@dataclass(slots=True)
class Desk:
    """A gateway and its orders' server; who works there, and the connections of both to the orders."""

    running: Running
    support: Client
    payments: Client
    other: Client
    own: grpc.aio.Channel
    theirs: grpc.aio.Channel

    async def refund(self, task: Task) -> Step:
        """A live step that can be handed on: policy wants that the order was read."""
        async with task.step("orders.get", GET) as reading:
            assert await call(self.own, grant=reading.grant.token) == "orders.get ord_00000042"
        step = task.step("orders.refund", PAY)
        await step.begin()
        return step

    async def operator(self) -> Any:
        return operator_pb2_grpc.OperatorStub(await self.running.channel("operator/jo"))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        ledger = tmp_path / "ledger.sqlite"
        running = await stack.enter_async_context(running_gateway(write_handed(tmp_path), ledger=ledger))
        target, _ = await stack.enter_async_context(orders_server(running))
        clients = [await running.client(f"agent/{name}") for name in ("support", "payments", "other")]
        channels = [
            await stack.enter_async_context(bare_channel(running, f"agent/{name}", target))
            for name in ("support", "payments")
        ]
        yield Desk(running, *clients, *channels)


async def refused(channel: grpc.aio.Channel, grant: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, grant=grant)
    return str(dict(caught.value.trailing_metadata() or ()).get("stepgrant-refusal", caught.value.details()))


async def denied(client: Client, hand_off: HandOff) -> tuple[DenialCode, str]:
    with pytest.raises(Denied) as caught:
        async with client.task(hand_off):
            pytest.fail("the branch opens")
    return caught.value.denial.code, caught.value.denial.reason


async def test_id_16_a_step_is_handed_on_as_text_and_worked_on_by_whom_it_names(desk: Desk, tmp_path: Path) -> None:
    async with desk.support.task("Refund", WORDS) as task:
        step = await desk.refund(task)
        handed = HandOff.read((await step.hand_off(PAYMENTS, BOUNDS, purpose="pay it back")).slip())
        async with desk.payments.task(handed) as branch:
            assert (branch.id, branch.branch_id) == (task.id, handed.id)
            assert [offer.tool for offer in branch.tools] == ["orders.get"]
            async with branch.step("orders.get", GET) as reading:
                claims = from_payload(from_base64url(reading.grant.token.split(".")[1]))
                assert (claims.subject, claims.chain) == (PAYMENTS, (SUPPORT, PAYMENTS))
                assert claims.task_id == task.id
                # Nobody but the receiver holds it, its origin neither.
                assert await refused(desk.own, reading.grant.token) == "holder"
                assert await call(desk.theirs, grant=reading.grant.token) == "orders.get ord_00000042"
            with pytest.raises(Denied) as outside:
                async with branch.step("orders.get", {"order_id": "ord_00000043"}):
                    pytest.fail("it was not handed on")
            assert outside.value.denial.code is DenialCode.OUTSIDE_ENVELOPE
            listed = (await (await desk.operator()).ListTasks(operator_pb2.ListTasksRequest())).tasks
            assert sorted((one.branch_id, list(one.chain)) for one in listed) == [
                ("", [SUPPORT]), (handed.id, [SUPPORT, PAYMENTS]),
            ]  # fmt: skip
        await step.finish(None)
    assert verify_ledger(SqliteLedgerReader(tmp_path / "ledger.sqlite")).events


async def test_id_14_a_hand_off_opens_one_branch_and_strangers_learn_nothing(desk: Desk) -> None:
    async with desk.support.task("Refund", WORDS) as task:
        step = await desk.refund(task)
        hand_off = await step.hand_off(PAYMENTS, BOUNDS)
        answers = {
            await denied(desk.other, hand_off),
            await denied(desk.support, hand_off),
            await denied(desk.payments, replace(hand_off, ticket=b"t" * 32)),
            await denied(desk.payments, replace(hand_off, task_type="Triage")),
            await denied(desk.payments, replace(hand_off, parameters=WORDS | {"order_id": "ord_00000043"})),
        }
        async with desk.payments.task(hand_off):
            answers.add(await denied(desk.payments, hand_off))
        answers.add(await denied(desk.payments, hand_off))
        ended = await step.hand_off(PAYMENTS, BOUNDS)
        await step.finish(None)
        answers.add(await denied(desk.payments, ended))
    [(code, _)] = answers
    assert code is DenialCode.HAND_OFF_REFUSED


@pytest.mark.parametrize(
    ("to", "envelope", "code"),
    [
        ("spiffe://dev.stepgrant.test/agent/other", BOUNDS, DenialCode.NO_PERMIT),
        ("spiffe://partner.test/agent/payments", BOUNDS, DenialCode.NO_PERMIT),
        (SUPPORT, BOUNDS, DenialCode.LIMIT_EXCEEDED),
        (PAYMENTS, {"orders.get": {"order_id": "any"}}, DenialCode.OUTSIDE_ENVELOPE),
        (PAYMENTS, BOUNDS | {"orders.search": {}}, DenialCode.OUTSIDE_ENVELOPE),
    ],
)
async def test_inv_09_what_is_handed_on_is_decided_and_only_narrows(
    desk: Desk, to: str, envelope: Any, code: DenialCode
) -> None:
    async with desk.support.task("Refund", WORDS) as task:
        step = await desk.refund(task)
        with pytest.raises(Denied, match=r"handing on step orders\.refund was denied") as caught:
            await step.hand_off(to, envelope)
        assert caught.value.denial.code is code
        await step.finish(None)


@pytest.mark.parametrize("by", ["report", "close", "lock"])
async def test_inv_04_a_branch_and_its_grants_die_with_the_step_or_the_workload_that_it_came_from(
    desk: Desk, by: str
) -> None:
    operator = await desk.operator()
    async with AsyncExitStack() as origin:
        task = await origin.enter_async_context(desk.support.task("Refund", WORDS))
        step = await desk.refund(task)
        async with desk.payments.task(await step.hand_off(PAYMENTS, BOUNDS)) as branch:
            with pytest.raises(Revoked) as revoked:
                async with branch.step("orders.get", GET) as reading:
                    grant = reading.grant.token
                    if by == "report":
                        await step.finish(None)
                    elif by == "close":
                        await origin.aclose()
                    else:
                        selector = types_pb2.Selector(workload=SUPPORT)
                        await operator.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="compromised"))
                    await interrupted()
            assert revoked.value.cause in ({"locked", "parent_ended"} if by == "lock" else {"parent_ended"})
            assert await refused(desk.theirs, grant) in ({"revoked", "locked"} if by == "lock" else {"revoked"})
            with pytest.raises(TaskClosedError, match=r"closed the branch \(parent_ended\)"):
                while True:
                    await branch.step("orders.get", GET).begin()
        if by == "lock":
            await step.finish(None)


async def test_id_08_a_branch_goes_on_while_the_identities_of_origin_and_receiver_change(desk: Desk) -> None:
    async with desk.support.task("Refund", WORDS) as task:
        step = await desk.refund(task)
        async with desk.payments.task(await step.hand_off(PAYMENTS, BOUNDS)) as branch:
            async with branch.step("orders.get", GET) as reading:
                for path, moved in (("agent/support", task), ("agent/payments", branch)):
                    before = moved.holder.identity.credential_sha256
                    desk.running.api.reissue(path)
                    await eventually(
                        lambda before=before, moved=moved: moved.holder.identity.credential_sha256 != before
                    )
                # What was granted before is good with the SVID that it was granted to, which is that of this connection.
                assert await call(desk.theirs, grant=reading.grant.token) == "orders.get ord_00000042"
            async with branch.step("orders.get", GET) as after:
                assert after.live
            assert (branch.id, branch.open) == (task.id, True)
            late = await step.hand_off(PAYMENTS, BOUNDS)
            await step.finish(None)
        assert (await denied(desk.payments, late))[0] is DenialCode.HAND_OFF_REFUSED


async def through(desk: Desk, network: Proxy, path: str) -> Client:
    """The client of that workload, behind a network that can be cut."""
    client = Client(Address("127.0.0.1", network.port), parse_spiffe_id(ISSUER), desk.running.identity(path))
    desk.running.stack.push_async_callback(client.close)
    return client


async def test_a_branch_that_lost_its_stream_is_taken_up_by_its_receiver_and_its_origin_does_not_notice(
    desk: Desk,
) -> None:
    async with proxy(desk.running.gateway.port) as network, desk.support.task("Refund", WORDS) as task:
        step = await desk.refund(task)
        payments = await through(desk, network, "agent/payments")
        handed = await step.hand_off(PAYMENTS, BOUNDS)
        async with payments.task(handed) as branch:
            with pytest.raises(Revoked) as lost:
                async with branch.step("orders.get", GET):
                    network.cut()
                    await interrupted()
            assert lost.value.state == "abandoned"
            async with branch.step("orders.get", GET):
                assert (branch.id, branch.branch_id) == (task.id, handed.id)
            assert step.live
        await step.finish(None)


async def test_a_branch_dies_when_its_origin_loses_its_stream(desk: Desk) -> None:
    async with proxy(desk.running.gateway.port) as network:
        support = await through(desk, network, "agent/support")
        async with support.task("Refund", WORDS) as task:
            step = await desk.refund(task)
            async with desk.payments.task(await step.hand_off(PAYMENTS, BOUNDS)) as branch:
                with pytest.raises(Revoked) as revoked:
                    async with branch.step("orders.get", GET) as reading:
                        grant = reading.grant.token
                        network.cut()
                        await interrupted()
                assert revoked.value.cause == "parent_ended"
                assert await refused(desk.theirs, grant) == "revoked"
            await eventually(lambda: not step.live)
            with pytest.raises(Revoked):
                await step.hand_off(PAYMENTS, BOUNDS)
            await step.finish(None)
