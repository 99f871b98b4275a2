"""What gateway.toml lets one workload ask holds in the whole gateway, for the real SDK."""

from __future__ import annotations

import asyncio

import pytest

from stepgrant.errors import Denied, GatewayUnavailableError
from stepgrant.tasks import Task
from tests.kit.running import running_gateway

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@x.org"}
LIMITS = "[limits]\nopen_tasks = 1\nopens_per_second = 1\ndeclares_per_second = 1\n"


async def test_the_limits_of_gateway_toml_hold_for_one_workload_and_leave_the_others_alone():
    """INV-11: the bounds per identity are there, and with the operator's numbers."""
    async with running_gateway(settings=LIMITS) as running:
        client = await running.client("agent/support")
        async with client.task("Refund", PARAMETERS) as task:
            with pytest.raises(GatewayUnavailableError, match="at once"):
                async with client.task("Refund", PARAMETERS):
                    pass
            answers = await asyncio.gather(*(declared(task) for _ in range(20)), return_exceptions=True)
            other = await running.client("agent/other")
            with pytest.raises(Denied) as elsewhere:
                async with other.task("Refund", PARAMETERS):
                    pass

    refused = [answer.denial for answer in answers if isinstance(answer, Denied)]
    assert 20 > len(refused) > 0
    assert {denial.code.value for denial in refused} == {"overloaded"}
    assert all(denial.retry_after for denial in refused)
    assert elsewhere.value.denial.code.value == "no_permit"


async def declared(task: Task) -> None:
    async with task.step("orders.get", {"order_id": "ord_00000042"}):
        pass
