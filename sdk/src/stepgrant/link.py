"""The connection to the gateway: authenticated by SPIFFE ID, pinned, and left when either no longer holds (design 6)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import grpc

from stepgrant.clock import Clock, Timer
from stepgrant.errors import (
    GatewayUnavailableError,
    IdentityUnavailableError,
    InvalidSvidError,
    MisuseError,
    TaskClosedError,
)
from stepgrant.session import again
from stepgrant.spans import traceparent
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.pinning import open_pinned
from stepgrant.spiffe.probe import PinnedServer, recheck_server
from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource
from stepgrant.v1.agent_pb2_grpc import AgentGatewayStub

if TYPE_CHECKING:
    from stepgrant.session import GetToken, StreamCall

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""One message of the stream; the gateway's own bound."""
CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A call that was sent is never sent again behind our back: ids and uses are counted.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
KEEPALIVE: Final[tuple[tuple[str, int], ...]] = (
    # A gateway that vanished without a word is noticed within 20 s while a task is open. Not more often: it would cut us off.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)

MOVE_WITHIN: Final = timedelta(seconds=5)
"""How long what lives on a connection may rest on it after the gateway's certificate there stopped to verify: as long as a
resource may be without word of the gateway (ADR 23)."""

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: `host` is a name or an address without brackets."""

    host: str
    port: int

    @property
    def target(self) -> str:
        """As gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, what: str) -> Address:
    """The address that `host:port` or `[address]:port` is; raises MisuseError otherwise."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise MisuseError(f"{what} is not host:port, such as gateway.acme.org:8443")
    return Address(match[1] or match[2], int(match[3]))


@dataclass(slots=True)
class Link:
    """One channel, pinned to `pinned`. What names us on it is the certificate of `snapshot`, or with each call its JWT-SVID.

    Streams on it keep it until they are over. Of one that is `forsaken`, because what it is pinned to does not verify any more,
    nothing new is asked: streams leave it, and what has not left when `cut` runs ends with it.
    """

    snapshot: IdentitySnapshot = field(repr=False)
    pinned: PinnedServer
    channel: grpc.aio.Channel = field(repr=False)
    streams: int = 0
    retired: bool = False
    forsaken: bool = False
    cut: Timer | None = field(default=None, repr=False)

    def vouched_for(self) -> bool:
        """True while what it is pinned to verifies as the gateway."""
        return not self.forsaken

    async def unless_forsaken(self, get: GetToken) -> bytes:
        """What `get` brings; raises GatewayUnavailableError if who would be told it is not vouched for any more."""
        token = await get()
        if self.forsaken:
            raise GatewayUnavailableError("the gateway's certificate does not verify any more")
        return token

    def stream(self) -> StreamCall:
        """A fresh `PerformTask` call."""
        metadata = (*traceparent(), *self.snapshot.bearer)
        return AgentGatewayStub(self.channel).PerformTask(None, metadata=metadata)


class Links:
    """Hands out the one link that is good now, and sees to those that were. Belongs to one asyncio loop."""

    def __init__(self, address: Address, gateway_id: SpiffeId, identity: IdentitySource, clock: Clock) -> None:
        self._address = address
        self._gateway_id = gateway_id
        self._identity = identity
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self._closed = False
        self._tried = 0
        self._failed: GatewayUnavailableError | None = None
        self._all: list[Link] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._watchers: list[Callable[[], None]] = []
        self._unsubscribe = identity.subscribe(self._notice)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Has `callback` called on this loop after each change of the identity; call what is returned to end that."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    async def acquire(self) -> tuple[Link, bool]:
        """The link for a new stream, and whether it was made just now. To be given back with `release`.

        Raises:
            IdentityUnavailableError: this workload has no identity now.
            GatewayUnavailableError: no address answers as the gateway's SPIFFE ID.
            TaskClosedError: closed meanwhile.
        """
        asked = self._tried
        async with self._lock:
            if self._failed is not None and self._tried > asked:
                raise again(
                    self._failed
                )  # Tried for somebody else since: to try again for each who waits takes ever longer.
            while True:
                snapshot = await asyncio.to_thread(self._identity.current)
                link, fresh = self._link, False
                if link is not None and (link.snapshot != snapshot or self._clock.now() >= link.pinned.not_after):
                    self.drop(link)
                    link = None
                if link is None or link.retired:
                    link, fresh = await self._make(snapshot), True
                    self._link = link
                    self._all.append(link)
                    if self._closed:
                        self._close(link)
                        raise TaskClosedError("the client is closed, and its tasks with it")
                    bundles = self._identity.current().bundles
                    if bundles != snapshot.bundles:
                        self._judge(link, bundles)  # They changed while it was made, and nobody looked at it.
                if not link.forsaken:
                    link.streams += 1
                    return link, fresh

    def release(self, link: Link) -> None:
        """The stream is over. A link that was dropped meanwhile closes with its last stream."""
        link.streams -= 1
        if link.retired and link.streams == 0:
            self._close(link)

    def drop(self, link: Link) -> None:
        """No new stream on this one; the next makes another, and probes the gateway for it."""
        link.retired = True
        if self._link is link:
            self._link = None
        if link.streams == 0:
            self._close(link)

    async def close(self) -> None:
        """Closes every link and with it what still lives on it."""
        self._closed = True
        self._unsubscribe()
        for link in list(self._all):
            link.retired = True
            self._close(link)
        self._link = None
        while self._closing:
            await asyncio.wait(self._closing)

    async def _make(self, snapshot: IdentitySnapshot) -> Link:
        self._tried, self._failed = self._tried + 1, None
        try:
            channel, pinned = await open_pinned(
                self._address.host,
                self._address.port,
                self._gateway_id,
                snapshot,
                self._clock.now,
                (*CHANNEL_OPTIONS, *KEEPALIVE),
                show_certificate=snapshot.jwt_svid is None,
            )
        except GatewayUnavailableError as error:
            self._failed = error
            raise
        return Link(snapshot, pinned, channel)

    def _notice(self) -> None:
        """Called from the identity source's own thread."""
        try:
            self._loop.call_soon_threadsafe(self._recheck)
        except RuntimeError:
            _log.debug("The identity changed after the loop was closed.")

    def _recheck(self) -> None:
        """A live connection is never looked at again by gRPC, so this does it (facts.md)."""
        try:
            bundles = self._identity.current().bundles
        except IdentityUnavailableError as error:
            _log.warning("The identity of this workload is gone, its tasks end: %s", error)
            bundles = None
        for link in list(self._all):
            if bundles is None:
                link.retired = True
                self._close(link)
            elif not link.forsaken:
                self._judge(link, bundles)
        for callback in list(self._watchers):
            callback()

    def _judge(self, link: Link, bundles: BundleSet) -> None:
        try:
            recheck_server(link.pinned, bundles, self._clock.now())
        except InvalidSvidError as error:
            _log.warning("The gateway's certificate does not verify any more, its connection is left: %s", error)
        else:
            return
        link.forsaken = True
        self.drop(link)
        known = bundles.get(self._gateway_id.trust_domain)
        if known is None or not known.authorities:
            self._close(link)  # Nothing could prove the gateway: there is no connection to move to.
        elif link in self._all:
            link.cut = self._clock.call_at(self._clock.monotonic() + MOVE_WITHIN, partial(self._close, link))

    def _close(self, link: Link) -> None:
        if link in self._all:
            if link.cut is not None:
                link.cut.cancel()
            self._all.remove(link)
            if self._link is link:
                self._link = None
            task = self._loop.create_task(link.channel.close(None))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
