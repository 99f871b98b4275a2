"""What a scripted stream does beyond the contract."""

from __future__ import annotations

import pytest

from stepgrant.errors import DenialCode, Denied, Revoked
from tests.kit.loop import settled


async def test_inv_5_the_end_of_a_step_ends_its_children_first_hand(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        parent, child = task.step("orders.get"), None
        async with parent:
            child = task.step("orders.get", parent=parent)
            await child.begin()
        await settled(lambda: not child.live)
        with pytest.raises(Revoked, match="parent_ended"):
            child.refuse_ended()
        await child.finish(None)
    assert gateway.reported[-1].late


async def test_a_denial_carries_what_the_test_wrote(gateway):
    gateway.deny("orders.get", DenialCode.ARGUMENTS_INVALID, "Too fine.", next_step="Round it.", argument="amount")
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(Denied) as denied:
            async with task.step("orders.get"):
                pytest.fail("the body runs")
    assert (denied.value.denial.argument, denied.value.denial.next) == ("amount", "Round it.")
