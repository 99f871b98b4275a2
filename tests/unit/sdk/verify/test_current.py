"""The verified call of the running handler."""

import asyncio

import pytest

from stepgrant.errors import MisuseError
from stepgrant.verify.current import current_call, serving
from stepgrant.verify.verifier import VerifiedCall
from tests.kit.enforcement import INSTANCE, GatewayDouble


def call(tool: str) -> VerifiedCall:
    return VerifiedCall(tool, {}, "", GatewayDouble().claims(), INSTANCE)


def test_outside_a_handler_there_is_none():
    with pytest.raises(MisuseError):
        current_call()


def test_inside_it_is_the_handlers_own():
    with serving(call("a.b")):
        assert current_call().tool == "a.b"
        with serving(call("a.c")):
            assert current_call().tool == "a.c"
        assert current_call().tool == "a.b"
    with pytest.raises(MisuseError):
        current_call()


async def test_handlers_that_run_at_once_do_not_see_each_others_inv_10():
    """INV-10: verified is what is used, by each its own."""
    both = asyncio.Barrier(2)

    async def handle(tool: str) -> str:
        with serving(call(tool)):
            await both.wait()
            return current_call().tool

    assert await asyncio.gather(handle("a.b"), handle("a.c")) == ["a.b", "a.c"]
