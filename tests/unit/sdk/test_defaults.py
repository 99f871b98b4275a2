"""A program that names no client has one for its loop, and it is closed with the loop."""

from __future__ import annotations

import asyncio

import pytest

from stepgrant import defaults
from stepgrant.defaults import current_client
from stepgrant.errors import MisuseError


def test_each_loop_has_one_client_and_closes_it(gateway_free_environment):
    made = gateway_free_environment

    async def twice():
        return await current_client(), await current_client()

    first, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert first is again
    assert other is not first
    assert [one.closed for one in made] == [True, True]


async def test_the_client_that_was_entered_is_the_one_that_is_used(gateway):
    async with gateway.client() as outer:
        async with gateway.client() as inner:
            assert await current_client() is inner
        assert await current_client() is outer


async def test_without_an_environment_the_error_names_the_variable(monkeypatch):
    monkeypatch.delenv("STEPGRANT_GATEWAY", raising=False)
    with pytest.raises(MisuseError, match="STEPGRANT_GATEWAY is not set"):
        await current_client()


class Closable:
    closed = False

    async def close(self):
        self.closed = True


@pytest.fixture
def gateway_free_environment(monkeypatch):
    made = []

    def connect():
        made.append(Closable())
        return made[-1]

    monkeypatch.setattr(defaults, "connect", connect)
    return made
