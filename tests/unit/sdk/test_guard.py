"""`@tool` declares, calls and reports; nothing of a body runs without a grant."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from stepgrant.errors import (
    ArgumentsInvalidError,
    DenialCode,
    Denied,
    GatewayUnavailableError,
    MisuseError,
    Revoked,
    TaskClosedError,
)
from stepgrant.guard import hand_off, task, tool
from stepgrant.step import CURRENT_STEP
from stepgrant.tasks import CURRENT_TASK
from tests.kit.loop import settled

TO = "spiffe://test.stepgrant.test/agent/other"


def recorder(name, ran, **options):
    @tool(name, **options)
    async def body(order_id: str, amount: Decimal = Decimal("1.50"), note: str | None = None):
        ran.append(CURRENT_STEP.get())
        return order_id

    return body


async def test_arguments_are_bound_by_the_signature_with_defaults_and_without_unset_options(gateway):
    ran = []
    get = recorder("orders.get", ran)
    async with gateway.client(), task("Refund", order_id="o"):
        assert await get("o") == "o"
        await get(order_id="o", amount=3, note="n")
    assert [one.arguments for one in gateway.declared] == [
        {"order_id": "o", "amount": Decimal("1.5")},
        {"order_id": "o", "amount": 3, "note": "n"},
    ]
    assert gateway.opened[0].parameters == {"order_id": "o"}
    assert [one.failed for one in gateway.reported] == [False, False]


async def test_inv_12_a_denied_tool_raises_before_its_body_runs(gateway):
    ran = []
    gateway.deny("orders.refund", DenialCode.FORBIDDEN, "Refunds need finance.", next_step="Ask finance.")
    refund = recorder("orders.refund", ran)
    async with gateway.client(), task("Refund"):
        with pytest.raises(
            Denied, match=r"orders\.refund was denied \(forbidden\): Refunds need finance\..*Ask finance\."
        ) as denied:
            await refund("o")
    assert ran == []
    assert denied.value.denial.code is DenialCode.FORBIDDEN
    assert gateway.reported == []


async def test_inv_11_a_tool_does_not_run_when_the_gateway_is_away(gateway):
    ran = []
    get = recorder("orders.get", ran)
    async with gateway.client(), task("Refund"):
        await gateway.go_away()
        with pytest.raises((GatewayUnavailableError, TaskClosedError)):
            await get("o")
    assert ran == []


async def test_a_tool_called_by_a_tool_is_its_child(gateway):
    gateway.grant("orders.refund")
    get = recorder("orders.get", [])

    @tool("orders.refund")
    async def refund():
        await get("o")

    async with gateway.client(), task("Refund"):
        await refund()
        await get("o")
    parent, child, after = gateway.declared
    assert (parent.parent_step_id, child.parent_step_id, after.parent_step_id) == ("", parent.step_id, "")


async def test_a_tool_called_in_a_task_within_a_tool_is_nobodys_child(gateway):
    gateway.grant("orders.refund")
    get = recorder("orders.get", [])

    @tool("orders.refund")
    async def refund():
        async with task("Refund"):
            await get("o")

    async with gateway.client(), task("Refund") as outer:
        await refund()
        assert CURRENT_TASK.get() is outer
    assert gateway.declared[1].parent_step_id == ""
    assert gateway.declared[1].task_id != gateway.declared[0].task_id


async def test_tools_work_for_a_task_that_was_opened_by_hand_as_well(gateway):
    async with gateway.client() as client, client.task("Refund") as opened:
        await recorder("orders.get", [])("o")
    assert gateway.declared[0].task_id == opened.id
    assert CURRENT_TASK.get() is None


async def test_without_a_task_the_error_says_what_to_write():
    with pytest.raises(MisuseError, match=r"no task is open here: call it inside `async with stepgrant\.task"):
        await recorder("orders.get", [])("o")


async def test_a_tool_left_running_after_its_task_cannot_declare(gateway):
    ran = []
    go = asyncio.Event()

    async def late():
        await go.wait()
        await recorder("orders.get", ran)("o")

    async with gateway.client():
        async with task("Refund"):
            running = asyncio.create_task(late())
        go.set()
        with pytest.raises(TaskClosedError, match="open a new one"):
            await running
    assert ran == []


async def test_arguments_that_json_cannot_carry_are_refused_with_their_path_and_not_their_value(gateway):
    async with gateway.client(), task("Refund"):
        with pytest.raises(ArgumentsInvalidError) as refused:
            await recorder("orders.get", [])({"a": [object()]})
        assert refused.value.argument == "order_id.a[0]"
        with pytest.raises(ArgumentsInvalidError, match="more than 65536") as large:
            await recorder("orders.get", [])("secret" * 20_000)
        assert "secret" not in str(large.value)
    assert gateway.declared == []


async def test_self_and_what_is_not_to_be_sent_stay_out(gateway):
    class Orders:
        @tool("orders.get", not_sent=["context"], purpose="for a class")
        async def get(self, order_id, context, **more):
            return order_id, context, more

    async with gateway.client(), task("Refund"):
        assert await Orders().get("o", context=object(), limit=3)
    assert gateway.declared[0].arguments == {"order_id": "o", "limit": 3}
    assert gateway.declared[0].purpose == "for a class"


async def test_a_blocking_tool_runs_in_a_thread_and_is_the_childs_parent_there(gateway):
    seen = []

    @tool("orders.get")
    def get(order_id):
        seen.append(CURRENT_STEP.get().id)
        return order_id

    async with gateway.client(), task("Refund"):
        assert await asyncio.to_thread(get, "o") == "o"
        with pytest.raises(MisuseError, match="event loop's own thread"):
            get("o")
    assert [one.step_id for one in gateway.declared] == seen
    assert [one.failed for one in gateway.reported] == [False]


async def test_a_blocking_body_that_was_revoked_raises_at_its_end(gateway):
    @tool("orders.get")
    def get(loop):
        asyncio.run_coroutine_threadsafe(gateway.revoke(CURRENT_STEP.get().id), loop).result(5)
        step = CURRENT_STEP.get()
        asyncio.run_coroutine_threadsafe(settled(lambda: not step.live), loop).result(5)

    not_sent = tool("orders.get", not_sent=["loop"])(get.__wrapped__)
    async with gateway.client(), task("Refund"):
        with pytest.raises(Revoked, match="locked"):
            await asyncio.to_thread(not_sent, asyncio.get_running_loop())


def test_what_cannot_be_a_tool_is_refused_where_it_is_written():
    with pytest.raises(MisuseError, match=r"server\.tool"):
        tool("refund")
    with pytest.raises(MisuseError, match=r"\*items has no names"):

        @tool("orders.get")
        async def many(*items):
            """Takes what has no name."""

    with pytest.raises(MisuseError, match="generator"):

        @tool("orders.get")
        async def stream():
            yield 1


async def test_the_program_of_the_design_works_as_written(gateway):
    import stepgrant

    gateway.grant("orders.refund")

    class Order:
        paid = Decimal("98.70")

    @stepgrant.tool("orders.get")
    async def get_order(order_id: str) -> Order:
        return Order()

    @stepgrant.tool("orders.refund")
    async def refund(order_id: str, amount: Decimal) -> str:
        return "refunded"

    async def main() -> None:
        async with stepgrant.task("Refund", order_id="ord_00000042", customer="jo@x.org"):
            order = await get_order(order_id="ord_00000042")
            await refund(order_id="ord_00000042", amount=order.paid)

    async with gateway.client():
        await main()
    assert [one.arguments for one in gateway.declared] == [
        {"order_id": "ord_00000042"},
        {"order_id": "ord_00000042", "amount": Decimal("98.7")},
    ]
    assert len(gateway.reported) == 2


async def test_inv_5_a_body_that_would_run_after_its_step_does_not_run(gateway):
    """Decorators of others may hide that a function is asynchronous, or make it lazy."""

    async def body():
        pytest.fail("the body runs")

    def lazy():
        yield pytest.fail("the body runs")

    @tool("orders.get")
    def hidden():
        return body()

    @tool("orders.get")
    async def generating():
        return lazy()

    async with gateway.client(), task("Refund"):
        with pytest.raises(MisuseError, match="returned a coroutine, whose body would run after its step"):
            await asyncio.to_thread(hidden)
        with pytest.raises(MisuseError, match="returned a generator"):
            await generating()
    assert [(one.failed, one.error_class) for one in gateway.reported] == [(True, "MisuseError")] * 2


async def test_a_step_is_handed_on_from_the_body_of_its_tool(gateway):
    gateway.allow_hand_off("orders.get")
    handed = []

    @tool("orders.get")
    async def get(order_id):
        handed.append(await hand_off(TO, {"orders.get": {"order_id": {"exact": order_id}}}, purpose="p"))

    async with gateway.client(), task("Refund", customer="jo@x.org"):
        with pytest.raises(MisuseError, match="handed on and none is open here"):
            await hand_off(TO, {"orders.get": {}})
        await get("o")
    [declared], [handed_on] = gateway.declared, gateway.handed_on
    assert (handed_on.step_id, handed_on.workload, handed_on.purpose) == (declared.step_id, TO, "p")
    assert handed_on.envelope == {"orders.get": {"order_id": {"exact": "o"}}}
    assert (handed[0].task_type, handed[0].parameters) == ("Refund", {"customer": "jo@x.org"})
