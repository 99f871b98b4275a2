"""Connections to a resource come and go with certificates; calls that run stay where they are as long as they may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from stepgrant.errors import GatewayUnavailableError
from stepgrant.link import MOVE_WITHIN, Address
from stepgrant.outgoing.connections import Connections
from stepgrant.spiffe.ids import parse_spiffe_id
from tests.kit.ca import LATE, FixedSource, TestAuthority
from tests.kit.clock import ManualClock
from tests.kit.echo import HOLD, SAY, echo
from tests.kit.loop import settled

SERVER = parse_spiffe_id("spiffe://acme.org/resource/orders")


class Place:
    """A server and the connections to it, at a time that the test sets."""

    def __init__(self, authority: TestAuthority, port: int) -> None:
        self.authority = authority
        self.me = authority.snapshot("agent/support")
        self.source = FixedSource(self.me)
        self.clock = ManualClock(datetime.now(UTC))
        self.connections = Connections(Address("127.0.0.1", port), SERVER, self.source, self.clock)

    def half_over(self) -> None:
        """It is past the middle of the pinned leaf's life."""
        self.clock.advance((LATE - self.clock.now()) / 2 + timedelta(days=1))

    async def held(self, *, sends: bool = False) -> tuple[Any, Any]:
        """A connection, and a call that runs over it; one of many messages, or so it is said."""
        connection = await self.connections.proven(self.me)
        call = connection.channel.unary_stream(HOLD)(b"hello")
        self.connections.carries(connection, call, sends=sends)
        assert await call.read() == b"hello"
        return connection, call


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    authority = TestAuthority()
    leaf = authority.issue("resource/orders", dns=["orders"])
    async with echo(authority, lambda: leaf) as port:
        built = Place(authority, port)
        try:
            yield built
        finally:
            await built.connections.close()


async def ended(connection: Any) -> None:
    await settled(lambda: connection.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN)


async def test_each_own_svid_has_one_connection_that_shows_it() -> None:
    async with place() as here:
        other = here.authority.snapshot("agent/support")
        first = await here.connections.proven(here.me)
        assert await here.connections.proven(here.me) is first
        assert await here.connections.proven(other) is not first


async def test_id_08_in_the_middle_of_the_pinned_leafs_life_new_calls_go_over_another_connection() -> None:
    async with place() as here:
        first, call = await here.held()
        here.half_over()
        second = await here.connections.proven(here.me)
        assert second is not first
        assert await second.channel.unary_unary(SAY)(b"x") == b"x"
        assert first.channel.get_state() is grpc.ChannelConnectivity.READY
        call.cancel()
        await ended(first)


@pytest.mark.parametrize("replaced", [False, True])
async def test_id_08_a_connection_vouched_for_by_a_removed_authority_ends_with_its_calls(replaced: bool) -> None:
    """What was sent may be answered for a while; no call is made over it any more."""
    async with place() as here:
        first, call = await here.held()
        if replaced:
            here.half_over()
            await here.connections.proven(here.me)
        here.source.put(TestAuthority().snapshot("agent/support"))
        await settled(lambda: first.cut is not None)
        with pytest.raises(GatewayUnavailableError, match="did not prove"):
            await here.connections.proven(here.me)
        here.clock.advance(MOVE_WITHIN - timedelta(milliseconds=1))
        assert first.channel.get_state() is grpc.ChannelConnectivity.READY
        here.clock.advance(timedelta(milliseconds=1))
        await ended(first)
        with pytest.raises(asyncio.CancelledError):
            await call.read()


async def test_id_08_nothing_more_is_sent_to_whom_a_removed_authority_vouched_for() -> None:
    async with place() as here:
        first, _ = await here.held(sends=True)
        here.source.put(TestAuthority().snapshot("agent/support"))
        await ended(first)


async def test_id_08_a_connection_that_is_left_ends_with_its_last_call() -> None:
    async with place() as here:
        first, call = await here.held()
        here.source.put(TestAuthority().snapshot("agent/support"))
        await settled(lambda: first.cut is not None)
        call.cancel()
        await ended(first)


async def test_id_08_a_connection_that_shows_an_earlier_own_svid_ends_with_its_last_call() -> None:
    async with place() as here:
        idle = await here.connections.proven(here.authority.snapshot("agent/support"))
        busy, call = await here.held()
        newest = here.authority.snapshot("agent/support")
        here.source.put(newest)
        await ended(idle)
        assert busy.channel.get_state() is grpc.ChannelConnectivity.READY
        call.cancel()
        await ended(busy)
        assert await here.connections.proven(here.me) is not busy  # For a step that lives on under it.
        shown = await here.connections.proven(newest)
        here.source.put(newest)
        await settled(lambda: list(here.connections._shown.values()) == [shown])


async def test_inv_11_calls_to_a_resource_that_proves_nothing_do_not_wait_for_each_other() -> None:
    probes: list[asyncio.StreamWriter] = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        probes.append(writer)
        writer.close()

    async with place() as here, await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        there, here.connections._address = here.connections._address, Address(*server.sockets[0].getsockname())
        calls = (here.connections.proven(here.me) for _ in range(12))
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [GatewayUnavailableError] * 12
        assert len(probes) <= 2
        here.connections._address = there
        await here.connections.proven(here.me)


async def test_without_an_identity_all_of_them_end() -> None:
    async with place() as here:
        first, _ = await here.held()
        here.source.put(None)
        await ended(first)


async def test_after_close_there_are_no_connections() -> None:
    async with place() as here:
        state: Callable[[], grpc.ChannelConnectivity] = here.connections.state
        assert state() is grpc.ChannelConnectivity.IDLE
        await here.connections.proven(here.me)
        assert state() is grpc.ChannelConnectivity.READY
        await here.connections.close()
        assert state() is grpc.ChannelConnectivity.SHUTDOWN
        with pytest.raises(grpc.aio.UsageError):
            await here.connections.proven(here.me)
