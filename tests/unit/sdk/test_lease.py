"""A task moves with its identity and survives a lost stream; who holds it does not notice, or is told clearly."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from stepgrant import blocking
from stepgrant.client import Client
from stepgrant.errors import Denial, DenialCode, GatewayUnavailableError, Revoked
from stepgrant.pauses import GIVE_UP, LINGER
from stepgrant.testing import ScriptedGateway
from tests.kit.clock import ManualClock
from tests.kit.loop import interrupted, settled

LOCKED = Denial(DenialCode.LOCKED, "An incident.", "Wait.")


class SilentGateway(ScriptedGateway):
    """From `silent` on it takes streams and says nothing on them."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = False
        self.reached = asyncio.Event()
        self.open("Refund")
        self.grant("orders.get")

    async def PerformTask(self, request_iterator, context):  # noqa: N802 - gRPC's name
        if self.silent:
            self.reached.set()
            await asyncio.Event().wait()
        await super().PerformTask(request_iterator, context)


@pytest.fixture
async def identity(gateway):
    return gateway.identity()


@pytest.fixture
async def task(gateway, identity):
    async with Client(gateway.address, gateway.gateway_id, identity) as client, client.task("Refund") as task:
        yield task


async def rotated(gateway, identity, times=1):
    """The identity has changed, and the task has moved."""
    for _ in range(times):
        before = len(gateway.resumed)
        identity.become(gateway.authority.snapshot("agent/test"))
        await gateway.until(lambda before=before: len(gateway.resumed) > before)


async def enter(step):
    async with step:
        await asyncio.sleep(0)


async def test_id_08_no_step_is_refused_while_the_identity_changes_under_it(gateway, identity, task):
    async def work():
        for _ in range(60):
            await enter(task.step("orders.get"))

    workers = [asyncio.create_task(work()) for _ in range(8)]
    await rotated(gateway, identity, times=4)
    await asyncio.gather(*workers)
    assert len(gateway.opened) == 1
    assert len(gateway.reported) == 480
    assert not any(report.late or report.failed for report in gateway.reported)


async def test_a_live_step_is_moved_reported_and_renewed_on_the_next_stream(gateway, identity, task):
    async with task.step("orders.get") as step:
        token = step.grant.token
        await rotated(gateway, identity)
        assert (step.live, step.grant.token) == (True, token)
        await step.renew()
    assert [(report.step_id, report.failed, report.late) for report in gateway.reported] == [(step.id, False, False)]


async def test_a_declaration_that_waits_for_its_answer_holds_a_move_up_and_is_answered(gateway, identity, task):
    gateway.hold("orders.get")
    waiting = asyncio.create_task(enter(task.step("orders.get")))
    await gateway.until(lambda: gateway.declared)
    identity.become(gateway.authority.snapshot("agent/test"))
    await gateway.release("orders.get")
    await waiting
    await gateway.until(lambda: gateway.resumed)
    await enter(task.step("orders.get"))


async def test_inv_05_steps_end_with_a_lost_stream_and_later_ones_go_on_in_the_same_task(gateway, task):
    with pytest.raises(Revoked, match="abandoned"):
        async with task.step("orders.get"):
            gateway.cut()
            await interrupted()
    await enter(task.step("orders.get"))  # Waits until the task has been taken up.
    assert (len(gateway.opened), gateway.resumed) == (1, [task.id])
    assert task.open


async def test_a_task_is_taken_up_as_often_as_its_stream_is_lost(gateway, task):
    for number in range(1, 4):
        gateway.cut()
        await gateway.until(lambda number=number: len(gateway.resumed) == number)
        await enter(task.step("orders.get"))


async def test_inv_11_a_task_that_cannot_be_taken_up_says_so_and_opens_no_other():
    now = datetime.now(UTC)
    async with ScriptedGateway(now=lambda: now) as gateway:
        gateway.open("Refund")
        gateway.grant("orders.get")
        async with gateway.client() as client, client.task("Refund") as task:
            gateway.deny_open("Refund", LOCKED)
            gateway.cut()
            await gateway.until(lambda: gateway.lost)
            await settled(lambda: task._lease._lost is not None)
            now += LINGER
            gateway.open("Refund")
            with pytest.raises(GatewayUnavailableError, match=r"open it again.*resume_refused"):
                await enter(task.step("orders.get"))
            assert not task.open
        assert (len(gateway.opened), gateway.declared) == (1, [])


async def test_a_task_is_not_tried_to_be_taken_up_for_longer_than_any_gateway_keeps_it(gateway):
    clock = ManualClock(datetime.now(UTC))
    async with gateway.client(clock=clock) as client, client.task("Refund") as task:
        gateway.deny_open("Refund", LOCKED)
        gateway.cut()
        await settled(lambda: task._lease._lost is not None)
        waiting = asyncio.create_task(enter(task.step("orders.get")))
        tried = 0
        while not waiting.done():
            clock.advance(timedelta(milliseconds=250))
            tried += 1
            await asyncio.wait([waiting], timeout=0.01)
        with pytest.raises(GatewayUnavailableError, match="locked"):
            await waiting
        assert tried * timedelta(milliseconds=250) >= LINGER


async def test_a_move_that_is_denied_leaves_the_task_where_it_is_and_is_tried_again(gateway, identity, task):
    gateway.deny_open("Refund", LOCKED)
    identity.become(gateway.authority.snapshot("agent/test"))
    for _ in range(20):
        await enter(task.step("orders.get"))
    assert gateway.resumed == []
    gateway.open("Refund")
    await gateway.until(lambda: gateway.resumed)
    await enter(task.step("orders.get"))


async def test_a_step_that_ended_as_its_task_moved_is_over_although_nobody_said_so(gateway, identity, task):
    with pytest.raises(Revoked, match="not live any more"):
        async with task.step("orders.get") as step:
            (stream,) = gateway._streams
            stream._task.steps[step.id].state = "revoked"
            identity.become(gateway.authority.snapshot("agent/test"))
            await interrupted()


async def test_an_identity_that_changes_without_a_word_is_found_when_half_its_life_is_over(gateway):
    clock, identity = ManualClock(datetime.now(UTC)), gateway.identity()
    client = Client(gateway.address, gateway.gateway_id, identity, clock=clock)
    async with client, client.task("Refund") as task:
        identity._snapshot = gateway.authority.snapshot("agent/test")
        clock.advance(timedelta(minutes=31))
        await gateway.until(lambda: gateway.resumed)
        await enter(task.step("orders.get"))


async def test_many_tasks_of_one_process_all_move(gateway, identity):
    async with Client(gateway.address, gateway.gateway_id, identity) as client:
        contexts = [client.task("Refund") for _ in range(30)]
        tasks = [await context.__aenter__() for context in contexts]
        identity.become(gateway.authority.snapshot("agent/test"))
        await gateway.until(lambda: len(gateway.resumed) == 30)
        await asyncio.gather(*(enter(task.step("orders.get")) for task in tasks))
        for context in contexts:
            await context.__aexit__(None, None, None)
        assert len(client._links._all) == 1
    assert sorted(gateway.resumed) == sorted(task.id for task in tasks)


async def test_a_task_closes_in_order_while_it_moves(gateway, identity):
    async with Client(gateway.address, gateway.gateway_id, identity) as client:
        async with client.task("Refund") as task:
            identity.become(gateway.authority.snapshot("agent/test"))
        assert gateway.closed == [(task.id, False)]


async def test_blocking_code_does_not_notice_either(gateway, identity):
    inner = Client(gateway.address, gateway.gateway_id, identity)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work():
        client = blocking.Client(inner, loop)
        with client.task("Refund") as task:
            while not done.is_set():
                with task.step("orders.get"):
                    pass
        client.close()

    working = asyncio.create_task(asyncio.to_thread(work))
    await gateway.until(lambda: gateway.declared)
    await rotated(gateway, identity, times=2)
    done.set()
    await working
    assert len(gateway.opened) == 1
    assert not any(report.late or report.failed for report in gateway.reported)


async def test_a_connection_that_ends_while_a_task_moves_to_it_does_not_keep_the_task_waiting_for_ever():
    async with SilentGateway() as gateway:
        identity = gateway.identity()
        async with Client(gateway.address, gateway.gateway_id, identity) as client, client.task("Refund") as task:
            gateway.silent = True
            identity.become(gateway.authority.snapshot("agent/test"))
            await asyncio.wait_for(gateway.reached.wait(), 10)
            identity.become(None)
            await settled(lambda: task._lease._lost is not None)
            gateway.silent = False
            identity.become(gateway.authority.snapshot("agent/test"))
            async with asyncio.timeout(10):
                await enter(task.step("orders.get"))
        assert gateway.resumed == [task.id]


async def test_a_gateway_that_says_nothing_is_not_waited_for_longer_than_it_could_keep_a_task():
    clock = ManualClock(datetime.now(UTC))
    async with SilentGateway() as gateway, gateway.client(clock=clock) as client, client.task("Refund") as task:
        gateway.silent = True
        gateway.cut()
        await asyncio.wait_for(gateway.reached.wait(), 10)
        waiting = asyncio.create_task(enter(task.step("orders.get")))
        clock.advance(GIVE_UP)
        with pytest.raises(GatewayUnavailableError, match="open it again"):
            async with asyncio.timeout(5):
                await waiting
        assert not task.open


async def test_inv_05_steps_end_when_somebody_else_has_their_task_while_a_move_waits_to_be_tried_again(
    gateway, identity
):
    clock = ManualClock(datetime.now(UTC))
    async with (
        Client(gateway.address, gateway.gateway_id, identity, clock=clock) as client,
        client.task("Refund") as task,
    ):
        gateway.deny_open("Refund", LOCKED)
        with pytest.raises(Revoked, match="taken_over"):
            async with task.step("orders.get"):
                (stream,) = gateway._streams
                identity.become(gateway.authority.snapshot("agent/test"))
                await settled(lambda: task._lease._pauses._over is not None)
                await stream.close("taken_over", "Another stream has the task.")
                await interrupted()
        assert not task.open


async def test_a_step_that_was_put_off_and_granted_after_a_move_is_not_held_for_one_that_the_move_lost(
    gateway, identity, task
):
    gateway.deny("orders.get", DenialCode.OVERLOADED, "Too much.", retry_after=timedelta(seconds=1))
    entered, done = asyncio.Event(), asyncio.Event()

    async def work():
        async with task.step("orders.get"):
            entered.set()
            await done.wait()

    working = asyncio.create_task(work())
    await gateway.until(lambda: gateway.declared)
    (before,) = gateway._streams
    before.taken_over = lambda: None  # Its last words are on their way for a while.
    gateway.grant("orders.get")
    await rotated(gateway, identity)
    await asyncio.wait_for(entered.wait(), 10)
    before.cut()
    await settled(lambda: not task._lease._background)
    done.set()
    await working


async def test_a_client_that_is_closed_takes_no_task_up_and_nobody_waits_for_that(gateway):
    clock = ManualClock(datetime.now(UTC))
    client = gateway.client(clock=clock)
    async with client.task("Refund") as task:
        await client.close()
        with pytest.raises(GatewayUnavailableError, match=r"the client is closed|was cut"):
            async with asyncio.timeout(5):
                await enter(task.step("orders.get"))


async def test_ds_09_the_stream_of_a_closed_task_ends_with_its_status_and_is_not_cancelled(gateway):
    """A cancelled one costs the gateway some bytes for good (grpc issue 43360)."""
    async with gateway.client() as client:
        async with client.task("Refund") as task:
            call = task._lease._hold.session._call
        assert await call.code() is grpc.StatusCode.OK


async def test_a_step_is_handed_on_while_its_task_moves_and_a_lost_stream_says_so(gateway, identity, task):
    """As a declare: what is asked is answered before the task moves, and what was lost on the way is not asked again."""
    gateway.allow_hand_off("orders.get")
    with pytest.raises(Revoked):
        async with task.step("orders.get") as step:
            gateway.hold("orders.get")
            asked = asyncio.create_task(step.hand_off("spiffe://test.stepgrant.test/agent/other", {"orders.get": {}}))
            identity.become(gateway.authority.snapshot("agent/test"))
            await gateway.release("orders.get")
            assert (await asked).ticket
            await gateway.until(lambda: gateway.resumed)
            assert (await step.hand_off("spiffe://test.stepgrant.test/agent/other", {"orders.get": {}})).ticket
            gateway.hold("orders.get")
            asked = asyncio.create_task(step.hand_off("spiffe://test.stepgrant.test/agent/other", {"orders.get": {}}))
            await asyncio.sleep(0)
            gateway.cut()
            await interrupted()
    with pytest.raises(GatewayUnavailableError):
        await asked
    assert len(gateway.handed_on) == 2
