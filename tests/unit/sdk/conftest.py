"""A gateway scripted by the test, for everything that needs one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stepgrant.testing import ScriptedGateway


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway() as scripted:
        scripted.open("Refund")
        scripted.grant("orders.get")
        yield scripted
