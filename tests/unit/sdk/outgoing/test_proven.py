"""Whatever kind of call is made on the channel, it goes over a proven connection or fails as gRPC calls fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from stepgrant.clock import LoopClock
from stepgrant.errors import MisuseError
from stepgrant.link import Address
from stepgrant.outgoing.connections import Connections
from stepgrant.outgoing.proven import ProvenChannel, ended_as_unavailable
from stepgrant.spiffe.ids import parse_spiffe_id
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.echo import HOLD, SAY, TALK, TELL, echo

SERVER = parse_spiffe_id("spiffe://acme.org/resource/orders")


@asynccontextmanager
async def opened(*, listening: bool = True) -> AsyncIterator[ProvenChannel]:
    authority = TestAuthority()
    leaf = authority.issue("resource/orders", dns=["orders"])
    source = FixedSource(authority.snapshot("agent/support"))
    async with echo(authority, lambda: leaf) as port:
        address = Address("127.0.0.1", port if listening else 1)
        async with ProvenChannel(Connections(address, SERVER, source, LoopClock()), source, []) as channel:
            yield channel


async def messages() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


async def test_every_kind_of_call_goes_over_it() -> None:
    async with opened() as channel:
        await channel.channel_ready()
        assert await channel.unary_unary(SAY)(b"x", timeout=5) == b"x"
        assert await channel.unary_stream(HOLD)(b"y").read() == b"y"
        assert await channel.stream_unary(TELL)(messages()) == b"ab"
        assert [answer async for answer in channel.stream_stream(TALK)(messages())] == [b"a", b"b"]
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_where_nobody_proves_to_be_the_server_nothing_is_sent() -> None:
    async with opened(listening=False) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="did not prove to be") as error:
            await channel.unary_unary(SAY)(b"x")
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(SAY)(b"x", timeout=0)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_method_is_read_and_written_in_one_way() -> None:
    async with opened() as channel:
        channel.unary_unary(SAY, bytes, bytes)
        with pytest.raises(MisuseError, match="another way"):
            channel.unary_unary(SAY, bytes, str)


async def test_a_change_of_state_cannot_be_waited_for() -> None:
    async with opened() as channel:
        with pytest.raises(grpc.aio.UsageError, match="channel_ready"):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE)


async def test_a_call_whose_connection_was_closed_is_unavailable_and_one_that_was_cancelled_is_cancelled() -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="connection was closed"):
        with ended_as_unavailable():
            raise asyncio.CancelledError

    async def waiting() -> None:
        with ended_as_unavailable():
            await asyncio.Event().wait()

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
