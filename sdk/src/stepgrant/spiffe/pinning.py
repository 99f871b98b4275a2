"""A gRPC channel that is connected to a server which proved its SPIFFE ID, also when that one rotates meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import grpc

from stepgrant.errors import GatewayUnavailableError
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.probe import PinnedServer, grpc_channel_credentials, probe_server
from stepgrant.spiffe.source import IdentitySnapshot

TRIES: Final = 3
"""Probes for one connection: a server may show another certificate at the handshake than at the probe before, but not forever."""
CONNECT_WITHIN: Final = timedelta(seconds=5)

_FAILED: Final = frozenset({grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN})


async def open_pinned(
    host: str,
    port: int,
    expected_id: SpiffeId,
    snapshot: IdentitySnapshot,
    now: Callable[[], datetime],
    options: Sequence[tuple[str, Any]],
    *,
    show_certificate: bool = True,
) -> tuple[grpc.aio.Channel, PinnedServer]:
    """A connected channel that shows the certificate of `snapshot`, or none, and what it is pinned to. The caller closes it.

    Raises:
        GatewayUnavailableError: no address answers as `expected_id`, or none is there when it is connected to.
    """
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    for _ in range(TRIES):
        pinned = await asyncio.to_thread(probe_server, host, port, expected_id, snapshot, now())
        credentials, named = grpc_channel_credentials(snapshot, pinned, show_certificate=show_certificate)
        channel = grpc.aio.secure_channel(target, credentials, options=[*options, *named])
        try:
            if await connected(channel):
                return channel, pinned
        except BaseException:
            await channel.close(None)
            raise
        await channel.close(None)
    without = (
        "" if show_certificate else "; without a client certificate only a listener for bearer tokens takes anybody"
    )
    raise GatewayUnavailableError(
        f"{expected_id} proved itself at {target}, and then could not be connected to{without}"
    )


async def connected(channel: grpc.aio.Channel) -> bool:
    """True once the channel is connected; False when a handshake has failed, or the channel was closed."""
    try:
        async with asyncio.timeout(CONNECT_WITHIN.total_seconds()):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state in _FAILED:
                    return False
                await channel.wait_for_state_change(state)
    except (TimeoutError, grpc.aio.UsageError):
        return False
    return True
