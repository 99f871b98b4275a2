"""What gateway.toml lets one workload ask holds in the whole gateway, for the real SDK."""

from __future__ import annotations

import pytest

from stepgrant.errors import Denied, GatewayUnavailableError
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
            with pytest.raises(Denied) as denied:
                for _ in range(100):
                    async with task.step("orders.get", {"order_id": "ord_00000042"}):
                        pass
            other = await running.client("agent/other")
            with pytest.raises(Denied) as elsewhere:
                async with other.task("Refund", PARAMETERS):
                    pass

    assert denied.value.denial.code.value == "overloaded"
    assert denied.value.denial.retry_after is not None
    assert elsewhere.value.denial.code.value == "no_permit"
