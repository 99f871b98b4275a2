"""Which step a call is part of."""

from __future__ import annotations

import pytest

from stepgrant.calls import Call
from stepgrant.errors import Revoked
from stepgrant.guard import task
from stepgrant.outgoing.carrying import carrying_step, step_for
from stepgrant.testing import GrantRule
from tests.kit.loop import settled


async def test_inv_8_only_the_same_audience_and_the_same_tool_are_carried(gateway):
    gateway.grant("orders.get", GrantRule(audience="spiffe://a/orders"))
    async with gateway.client(), task("Refund") as opened, opened.step("orders.get") as step:
        assert carrying_step("spiffe://a/orders", None) is step
        assert carrying_step("spiffe://a/orders", "orders.get") is step
        assert carrying_step("spiffe://a/orders", "orders.refund") is None
        assert carrying_step("spiffe://a/mail", "orders.get") is None
    assert carrying_step("spiffe://a/orders", None) is None


async def test_a_step_that_has_ended_carries_nothing_and_says_so(gateway):
    async with gateway.client(), task("Refund") as opened:
        with pytest.raises(Revoked):
            async with opened.step("orders.get") as step:
                step._body = None
                await gateway.revoke(step.id)
                await settled(lambda: not step.live)
                carrying_step(GrantRule.audience, None)


async def test_without_a_task_there_is_no_step_to_declare():
    assert step_for(Call("orders.get", {})) is None
