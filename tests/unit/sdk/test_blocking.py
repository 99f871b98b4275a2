"""Blocking code gets the same guarantees, from a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stepgrant import blocking
from stepgrant.errors import Denied, MisuseError, Revoked
from stepgrant.step import CURRENT_STEP
from stepgrant.testing import ScriptedGateway
from tests.kit.loop import settled


@pytest.fixture
def served():
    """A scripted gateway on a loop of its own, and a way to run something there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    async def start():
        return await ScriptedGateway().__aenter__()

    scripted = run(start())
    scripted.open("Refund")
    scripted.grant("orders.get")
    yield scripted
    run(scripted.go_away())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def connect(gateway):
    return blocking.connect(gateway.address.target, str(gateway.gateway_id), gateway.identity())


def test_connect_task_and_step_work_with_with(served):
    with connect(served) as client, client.task("Refund", {"order_id": "o"}, purpose="p") as task:
        with task.step("orders.get", {"order_id": "o"}) as step:
            assert step.grant.audience
            assert CURRENT_STEP.get() is step
        assert CURRENT_STEP.get() is None
    assert [(one.failed, one.late) for one in served.reported] == [(False, False)]
    assert served.closed == [(task.id, False)]


def test_tools_are_declared_and_denied_as_elsewhere(served):
    @blocking.tool("orders.get")
    def get(order_id):
        return order_id

    @blocking.tool("orders.refund")
    def refund():
        pytest.fail("the body runs")

    with connect(served), blocking.task("Refund", order_id="o"):
        assert get("o") == "o"
        with pytest.raises(Denied):
            refund()
    assert served.opened[0].parameters == {"order_id": "o"}


def test_tools_work_for_a_task_that_was_opened_by_hand_as_well(served):
    @blocking.tool("orders.get")
    def get(order_id):
        return order_id

    with connect(served) as client, client.task("Refund") as opened:
        get("o")
    assert served.declared[0].task_id == opened.id


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_or_an_error_ends_the_step_and_the_task_as_failed(served, error):
    @blocking.tool("orders.get")
    def get():
        raise error

    with connect(served), pytest.raises(error), blocking.task("Refund"):
        get()
    assert [(one.failed, one.error_class) for one in served.reported] == [(True, error.__name__)]
    assert [failed for _, failed in served.closed] == [True]


def test_a_step_can_be_renewed_by_hand(served):
    with connect(served) as client, client.task("Refund") as task, task.step("orders.get", renew=False) as step:
        first = step.grant.grant_id
        blocking.renew(step)
        assert step.grant.grant_id != first


def test_a_step_is_handed_on_and_worked_on_in_blocking_code(served):
    served.allow_hand_off("orders.get")

    @blocking.tool("orders.get")
    def get(order_id):
        to = "spiffe://test.stepgrant.test/agent/test"
        handed = blocking.hand_off(to, {"orders.get": {"order_id": {"exact": order_id}}})
        with connect(served) as other, other.task(handed) as branch, branch.step("orders.get"):
            return (branch.id, branch.branch_id == handed.id)

    origin = blocking.connect(served.address.target, str(served.gateway_id), served.identity("agent/origin"))
    with origin, blocking.task("Refund") as task:
        assert get("o") == (task.id, True)
        assert task.branch_id == ""
        with pytest.raises(MisuseError, match="none is open here"):
            blocking.hand_off("spiffe://test.stepgrant.test/agent/test", {"orders.get": {}})


async def test_on_an_event_loop_blocking_steps_are_refused(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        with (
            pytest.raises(MisuseError, match="event loop's own thread"),
            blocking.BlockingStep(task.step("orders.get")),
        ):
            pytest.fail("the body runs")


async def test_blocking_code_in_a_thread_of_asynchronous_code_works_for_its_client(gateway):
    @blocking.tool("orders.get")
    def get(order_id):
        return order_id

    def work():
        with blocking.task("Refund"):
            return get("o")

    async with gateway.client():
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(work) == "o"
            assert await asyncio.to_thread(work) == "o"
    assert [failed for _, failed in gateway.closed] == [False, False]


def test_what_a_revoked_body_calls_next_is_told_why_it_was_revoked(served):
    def revoke():
        loop = next(iter(served._streams))._over._loop
        asyncio.run_coroutine_threadsafe(served.revoke(served.declared[-1].step_id), loop).result(10)

    with connect(served) as client, client.task("Refund") as task:
        with pytest.raises(Revoked, match=r"Locked by an operator\.") as revoked:
            with task.step("orders.get") as parent:
                revoke()
                ended = asyncio.run_coroutine_threadsafe(settled(lambda: not parent.live), parent.holder.loop)
                ended.result(10)
                task.step("orders.get", parent=parent)
    assert revoked.value.cause == "locked"
    assert len(served.declared) == 1
