"""A script denies what it does not name, and lets a test wait for what is said."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepgrant.errors import DenialCode
from stepgrant.testing import GrantRule
from stepgrant.testing.script import Script


async def test_inv_2_what_is_not_scripted_is_denied():
    script = Script()
    assert script.for_task("Refund").code is DenialCode.NO_PERMIT
    assert script.for_tool("orders.get").code is DenialCode.NO_PERMIT


async def test_what_is_scripted_is_answered():
    script = Script()
    script.open("Refund")
    script.grant("orders.get", GrantRule(uses=1))
    script.deny_renewals("orders.get")
    assert script.for_task("Refund") is None
    assert script.for_tool("orders.get").uses == 1
    assert script.for_renewal("orders.get").code is DenialCode.STEP_EXPIRING
    assert list(script.tools()) == ["orders.get"]


async def test_waiting_for_what_is_never_said_ends():
    with pytest.raises(TimeoutError):
        await Script().until(lambda: False, within=timedelta(milliseconds=10))
