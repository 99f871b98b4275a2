"""The verifier's connection to its gateway: authenticated by SPIFFE ID, pinned, and renewed with each subscription."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from stepgrant._status import error_of
from stepgrant._wire_feed import to_feed_event
from stepgrant._wire_strict import refuse_unknown
from stepgrant.clock import Clock
from stepgrant.errors import GatewayUnavailableError, MisuseError, ProtocolError
from stepgrant.feed import FeedEvent, Snapshot
from stepgrant.patience import Patience
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.pinning import open_pinned
from stepgrant.spiffe.source import IdentitySource
from stepgrant.v1 import types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant.verify.keys import GatewayAuthority
from stepgrant.verify.upstream import Redemption

_M = TypeVar("_M", bound=Message)

CALL_TIMEOUT: Final = timedelta(seconds=3)
RECONNECTED_WITHIN: Final = timedelta(seconds=1)
"""How long a redemption without an answer waits for the next connection, to be asked for again."""
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A snapshot with half a million dead grants."""
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    # A use that may have been taken is never asked for again behind our back.
    ("grpc.enable_retries", 0),
)


class GatewayLink:
    """`Upstream` over gRPC. `gateway` is `host:port`."""

    def __init__(self, gateway: str, gateway_id: SpiffeId, identity: IdentitySource, clock: Clock) -> None:
        host, colon, port = gateway.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise MisuseError(f"the gateway's address {gateway!r} is not host:port")
        self._host, self._port = host.strip("[]"), int(port)
        self._gateway_id = gateway_id
        self._identity = identity
        self._clock = clock
        self._stub: verifier_pb2_grpc.GrantVerifierAsyncStub | None = None
        self._there = asyncio.Event()

    def authority(self) -> GatewayAuthority:
        """The gateway's ID under the bundles of now."""
        return GatewayAuthority(self._gateway_id, self._identity.current().bundles)

    async def watch(self, audiences: frozenset[str]) -> AsyncGenerator[FeedEvent, None]:
        """Events of a new subscription over a new connection."""
        snapshot = await asyncio.to_thread(self._identity.current)
        channel, _ = await open_pinned(
            self._host, self._port, self._gateway_id, snapshot, self._clock.now, CHANNEL_OPTIONS
        )
        async with channel:
            stub: verifier_pb2_grpc.GrantVerifierAsyncStub = verifier_pb2_grpc.GrantVerifierStub(channel)
            call = stub.Watch(verifier_pb2.WatchRequest(audiences=sorted(audiences)))
            begun = False
            try:
                async with _as_our_errors():
                    async for message in call:
                        if not begun:
                            # Once: what an old subscription still says must not take the place of a new one.
                            begun, self._stub = True, stub
                            self._there.set()
                        yield to_feed_event(message)
            finally:
                call.cancel()
                if self._stub is stub:
                    self._stub = None
                    self._there.clear()

    async def snapshot(self, audiences: frozenset[str]) -> Snapshot:
        """The state of now, by a second subscription that is ended at once."""
        call = self._connected().Watch(
            verifier_pb2.WatchRequest(audiences=sorted(audiences)), timeout=CALL_TIMEOUT.total_seconds()
        )
        try:
            async with _as_our_errors():
                async for message in call:
                    item = to_feed_event(message).item
                    if isinstance(item, Snapshot):
                        return item
                    break
        finally:
            call.cancel()
        raise ProtocolError("the feed did not begin with a snapshot")

    async def redeem(self, audience: str, grant_id: str, redemption_id: str) -> Redemption:
        """Takes one use. Asked for once more under the same id, over the next connection, so that a lost answer costs no use."""
        request = verifier_pb2.RedeemRequest(audience=audience, grant_id=grant_id, redemption_id=redemption_id)
        response = await self._ask(lambda stub: stub.Redeem(request, timeout=CALL_TIMEOUT.total_seconds()))
        return Redemption(response.accepted, response.code[:64], response.reason[:1024])

    async def attest(self, audience: str, grant_id: str, *, completed: bool, result_sha256: bytes | None) -> None:
        """Tells how a call came out; again over the next connection where there was no answer: told twice it is told once."""
        outcome = types_pb2.OUTCOME_COMPLETED if completed else types_pb2.OUTCOME_FAILED
        request = verifier_pb2.AttestRequest(
            audience=audience, grant_id=grant_id, outcome=outcome, result_sha256=result_sha256 or b""
        )
        await self._ask(lambda stub: stub.Attest(request, timeout=CALL_TIMEOUT.total_seconds()))

    async def _ask(self, call: Callable[[verifier_pb2_grpc.GrantVerifierAsyncStub], Awaitable[_M]]) -> _M:
        """The answer. Asked for once more, over the next connection, if there was none."""
        try:
            return await self._ask_once(call)
        except GatewayUnavailableError as error:
            if error.retry_after is not None and not await Patience().waits(error):
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECONNECTED_WITHIN.total_seconds()):
                    await self._there.wait()
            return await self._ask_once(call)

    async def _ask_once(self, call: Callable[[verifier_pb2_grpc.GrantVerifierAsyncStub], Awaitable[_M]]) -> _M:
        async with _as_our_errors():
            response = await call(self._connected())
        refuse_unknown(response)
        return response

    def _connected(self) -> verifier_pb2_grpc.GrantVerifierAsyncStub:
        if self._stub is None:
            raise GatewayUnavailableError("there is no connection to the gateway now")
        return self._stub


@contextlib.asynccontextmanager
async def _as_our_errors() -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error.code(), error.details(), error.trailing_metadata() or ()) from error
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        # Nobody has cancelled who waits here: the connection was closed under the call, because another took its place.
        raise GatewayUnavailableError("the connection to the gateway was replaced meanwhile") from None
