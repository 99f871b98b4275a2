"""A channel is pinned to what the server shows, also when that changes between the probe and the handshake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import grpc
import pytest

from stepgrant.errors import GatewayUnavailableError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.pinning import TRIES, connected, open_pinned
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.echo import SAY, echo

SERVER = parse_spiffe_id("spiffe://acme.org/resource/orders")


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


def leaves(authority: TestAuthority) -> Iterator[IssuedSvid]:
    while True:
        yield authority.issue("resource/orders", dns=["orders"])


async def opened(authority: TestAuthority, port: int) -> grpc.aio.Channel:
    me = authority.snapshot("agent/support")
    channel, _ = await open_pinned("127.0.0.1", port, SERVER, me, lambda: datetime.now(UTC), ())
    return channel


def shown(*at_each_connection: IssuedSvid) -> Callable[[], IssuedSvid]:
    """These in turn, the first once more for the server's start, and the last for ever."""
    left = [at_each_connection[0], *at_each_connection]
    return lambda: left.pop(0) if len(left) > 1 else left[0]


async def test_id_08_a_server_that_rotates_between_probe_and_handshake_is_probed_anew(authority: TestAuthority) -> None:
    old, new = next(leaves(authority)), next(leaves(authority))
    async with echo(authority, shown(old, new)) as port:
        async with await opened(authority, port) as channel:
            assert await channel.unary_unary(SAY)(b"hello") == b"hello"


async def test_a_server_that_shows_another_leaf_each_time_is_given_up(authority: TestAuthority) -> None:
    endless = leaves(authority)
    asked: list[None] = []

    def another() -> IssuedSvid:
        asked.append(None)
        return next(endless)

    async with echo(authority, another) as port:
        with pytest.raises(GatewayUnavailableError, match="could not be connected to"):
            await opened(authority, port)
    assert len(asked) >= 2 * TRIES


async def test_a_closed_channel_is_not_connected(authority: TestAuthority) -> None:
    async with echo(authority, shown(next(leaves(authority)))) as port:
        channel = await opened(authority, port)
        assert await connected(channel)
        await channel.close(None)
        assert not await connected(channel)
