"""The scripted gateway as a test uses it; what it says on the wire is held by tests/contract."""

from __future__ import annotations

import pytest

from stepgrant.errors import GatewayUnavailableError, MisuseError
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
