"""The scripted gateway as a test uses it; what it says on the wire is held by tests/contract."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepgrant.errors import DenialCode, Denied, GatewayUnavailableError, MisuseError
from stepgrant.handed import Assignment
from stepgrant.testing import ScriptedGateway


async def test_it_goes_away_and_comes_back_at_the_same_address(gateway):
    address = gateway.address
    async with gateway.client() as client:
        await gateway.go_away()
        with pytest.raises(GatewayUnavailableError):
            async with client.task("Refund"):
                pass
        await gateway.serve()
        async with client.task("Refund"):
            pass
    assert gateway.address == address


async def test_before_it_serves_it_has_no_address():
    with pytest.raises(MisuseError, match="async with"):
        _ = ScriptedGateway().address


async def test_an_assignment_opens_one_task_with_its_words_and_nothing_else_has_to_be_scripted():
    async with ScriptedGateway() as gateway, gateway.client() as client:
        assignment = gateway.assign("Refund", {"order_id": "ord_1"}, purpose="INC-1")
        with pytest.raises(Denied) as invented:
            async with client.task("Refund", {"order_id": "ord_1"}, purpose="INC-1"):
                pytest.fail("the agent made it up")
        assert invented.value.denial.code is DenialCode.NO_PERMIT
        with pytest.raises(MisuseError, match="says parameters and purpose itself"):
            async with client.task(assignment, {"order_id": "ord_2"}):
                pytest.fail("it says other words")
        async with client.task(Assignment.read(assignment.slip())):
            pass
        [_, opened] = gateway.opened
        assert (opened.assigned, opened.purpose, opened.parameters) == (True, "INC-1", {"order_id": "ord_1"})
        with pytest.raises(Denied) as again:
            async with client.task(assignment):
                pytest.fail("it was used")
        assert again.value.denial.code is DenialCode.ASSIGNMENT_REFUSED
        other = replace(gateway.assign("Refund"), purpose="changed")
        with pytest.raises(Denied):
            async with client.task(other):
                pytest.fail("it was made for another purpose")
        gateway.deny_open("Refund")
        with pytest.raises(Denied) as denied:
            async with client.task(gateway.assign("Refund")):
                pytest.fail("the test says no")
        assert denied.value.denial.code is DenialCode.NO_PERMIT


async def test_a_task_that_was_assigned_is_taken_up_without_its_ticket():
    async with ScriptedGateway() as gateway, gateway.client() as client:
        async with client.task(gateway.assign("Refund")) as task:
            gateway.cut()
            await gateway.until(lambda: gateway.resumed == [task.id])
            assert task.open


async def test_a_test_sees_on_whose_behalf_a_task_was_asked_for():
    async with ScriptedGateway() as gateway, gateway.client() as client:
        gateway.open("Refund")
        async with client.task("Refund", {}, subject_token="a.b.c"):
            pass
        assert gateway.opened[-1].subject_token == "a.b.c"
        assert "a.b.c" not in repr(gateway.opened)
