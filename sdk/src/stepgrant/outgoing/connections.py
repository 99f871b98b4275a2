"""Connections to one resource: pinned to what proved its SPIFFE ID, and proven anew when a certificate has moved on.

gRPC never looks at a live connection again, and a pin fits one certificate only (facts.md). So a connection is made anew
when its pin does not fit any more, in the middle of the pinned certificate's life, and when that does not verify.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import grpc

from stepgrant.clock import Clock, Timer
from stepgrant.errors import GatewayUnavailableError, IdentityUnavailableError, InvalidSvidError
from stepgrant.link import CHANNEL_OPTIONS, MOVE_WITHIN, Address
from stepgrant.session import again
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.pinning import connected, open_pinned
from stepgrant.spiffe.probe import PinnedServer, recheck_server
from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Connection:
    """One channel that shows an own SVID (`leaf_sha256`), pinned to `pinned`.

    New calls go elsewhere from `renew_at` on; the last one on it closes it. `sending` of its calls have messages to send yet.
    """

    channel: grpc.aio.Channel = field(repr=False)
    leaf_sha256: bytes = field(repr=False)
    pinned: PinnedServer
    renew_at: datetime
    calls: int = 0
    sending: int = 0
    cut: Timer | None = None


class Connections:
    """One connection for each own SVID that is shown. Belongs to one asyncio loop; `close` it."""

    def __init__(self, address: Address, server_id: SpiffeId, source: IdentitySource, clock: Clock) -> None:
        self._address = address
        self._server_id = server_id
        self._source = source
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._shown: dict[bytes, Connection] = {}
        self._replaced: list[Connection] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._tried = 0
        self._failed: tuple[bytes, GatewayUnavailableError] | None = None
        self._closed = False
        self._unsubscribe = source.subscribe(self._notice)

    @property
    def target(self) -> str:
        """Where the server is said to be, as gRPC takes it."""
        return self._address.target

    async def proven(self, snapshot: IdentitySnapshot) -> Connection:
        """A connection that shows `snapshot`, connected to the server that proved to be the expected one.

        Raises:
            GatewayUnavailableError: no address answers as the expected SPIFFE ID.
            UsageError: closed.
        """
        connection = self._shown.get(snapshot.leaf_sha256)
        if connection is not None and self._good(connection):
            return connection
        asked = self._tried
        async with self._lock:
            if self._closed:
                raise grpc.aio.UsageError("Channel is closed.")
            if self._failed is not None and self._failed[0] == snapshot.leaf_sha256 and self._tried > asked:
                raise again(self._failed[1])  # Tried for another call since: they do not wait for each other.
            connection = self._shown.get(snapshot.leaf_sha256)
            if connection is not None:
                if self._clock.now() < connection.renew_at and await connected(connection.channel):
                    return connection
                # Its pin may be that of an earlier certificate; calls that run over it go on.
                self._replace(connection)
            return await self._make(snapshot)

    def state(self, *, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the newest one, as gRPC says it; IDLE while there is none, SHUTDOWN for good after `close`."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        newest = next(reversed(self._shown.values()), None)
        return grpc.ChannelConnectivity.IDLE if newest is None else newest.channel.get_state(try_to_connect)

    def carries(self, connection: Connection, call: Any, *, sends: bool = False) -> None:
        """Keeps the connection for as long as the call runs, which with `sends` has more than one message to send."""
        connection.calls += 1
        connection.sending += sends
        call.add_done_callback(lambda _: self._release(connection, sends=sends))

    async def close(self, grace: float | None = None) -> None:
        """Closes all of them. Calls that run get `grace` seconds."""
        self._closed = True
        self._unsubscribe()
        left = [*self._shown.values(), *self._replaced]
        for connection in left:
            if connection.cut is not None:
                connection.cut.cancel()
        await asyncio.gather(*(connection.channel.close(grace) for connection in left), *self._closing)

    def _good(self, connection: Connection) -> bool:
        ready = connection.channel.get_state() is grpc.ChannelConnectivity.READY
        return ready and self._clock.now() < connection.renew_at

    async def _make(self, snapshot: IdentitySnapshot) -> Connection:
        bundles = (await asyncio.to_thread(self._source.current)).bundles
        shown, made_at = replace(snapshot, bundles=bundles), self._clock.now()
        self._tried, self._failed = self._tried + 1, None
        try:
            opened, pinned = await open_pinned(
                self._address.host, self._address.port, self._server_id, shown, self._clock.now, CHANNEL_OPTIONS
            )
        except GatewayUnavailableError as error:
            self._failed = snapshot.leaf_sha256, error
            raise
        renew_at = made_at + (pinned.not_after - made_at) / 2
        self._shown[snapshot.leaf_sha256] = connection = Connection(opened, snapshot.leaf_sha256, pinned, renew_at)
        if self._closed:
            self._end(connection)
        elif self._source.current().bundles != bundles:
            self._recheck()  # They changed while it was made, and nobody looked at it.
        return connection

    def _notice(self) -> None:
        """Called from the identity source's own thread."""
        with suppress(RuntimeError):  # The loop is closed, and the connections with it.
            self._loop.call_soon_threadsafe(self._recheck)

    def _recheck(self) -> None:
        for connection in [*self._shown.values(), *self._replaced]:
            try:
                newest = self._source.current()
                recheck_server(connection.pinned, newest.bundles, self._clock.now())
            except IdentityUnavailableError as error:
                _log.warning("The connection to %s ends: %s", self._server_id, error)
                self._end(connection)
            except InvalidSvidError as error:
                _log.warning("The connection to %s is left: %s", self._server_id, error)
                self._forsake(connection, newest.bundles)
            else:
                if connection.leaf_sha256 != newest.leaf_sha256:
                    # A step that lives on under the earlier SVID makes another when it calls again.
                    self._replace(connection)

    def _forsake(self, connection: Connection, bundles: BundleSet) -> None:
        """Nothing more is sent to whom a removed authority vouched for; what was sent may be answered yet, for a while (ADR 23)."""
        known = bundles.get(self._server_id.trust_domain)
        if connection.sending or known is None or not known.authorities:
            self._end(connection)
        elif connection.cut is None:
            end = partial(self._end, connection)
            connection.cut = self._clock.call_at(self._clock.monotonic() + MOVE_WITHIN, end)
            self._replace(connection)

    def _replace(self, connection: Connection) -> None:
        self._forget(connection)
        self._replaced.append(connection)
        if connection.calls == 0:
            self._end(connection)

    def _release(self, connection: Connection, *, sends: bool) -> None:
        connection.calls -= 1
        connection.sending -= sends
        if connection.calls == 0 and connection in self._replaced:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        """Closes it at once, and with it the calls that run over it."""
        if connection.cut is not None:
            connection.cut.cancel()
        self._forget(connection)
        task = self._loop.create_task(connection.channel.close(None))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _forget(self, connection: Connection) -> None:
        self._shown = {leaf: one for leaf, one in self._shown.items() if one is not connection}
        self._replaced = [one for one in self._replaced if one is not connection]
