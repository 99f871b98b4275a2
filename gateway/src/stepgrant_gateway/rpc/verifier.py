"""`GrantVerifier`: the resources' face of the gateway."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeAlias

import grpc

from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import ProtocolError
from stepgrant.v1 import verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.core.boundary import Outcome, Redeemed
from stepgrant_gateway.core.observations import UNOBSERVED, Timing
from stepgrant_gateway.core.ports import Clock, Observer
from stepgrant_gateway.core.revocation import FeedEvent, Lock, RevokedGrant
from stepgrant_gateway.rpc.caller import current_caller
from stepgrant_gateway.rpc.limits import MAX_AUDIENCES, MAX_ID, MAX_TEXT
from stepgrant_gateway.rpc.live import DRAINING, LiveCalls
from stepgrant_gateway.rpc.status import CallLostError, abort
from stepgrant_gateway.rpc.wire import bounded, digest_field, outcome_field, ulid_field
from stepgrant_gateway.rpc.wire_feed import watch_event

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Redeemer(Protocol):
    """What takes uses and hears outcomes (`app.redeeming.Redeeming`)."""

    async def redeem(self, caller: str, audience: str, grant_id: str, redemption_id: str) -> Redeemed:
        """Takes one use."""

    async def attest(
        self, caller: str, audience: str, grant_id: str, outcome: Outcome, result_sha256: bytes | None
    ) -> bool:
        """Records an outcome; True when it came late."""


class Subscribed(Protocol):
    """One subscription: its events, until it is closed."""

    def __aiter__(self) -> AsyncIterator[FeedEvent]:
        """The events, the snapshot first."""

    def close(self) -> None:
        """No more events."""


class Publisher(Protocol):
    """What feeds subscriptions (`app.feed.Feed`)."""

    def subscribe(self, caller: str, audiences: Sequence[str]) -> Subscribed:
        """Subscribes to audiences that are the caller's."""


class VerifierService(verifier_pb2_grpc.GrantVerifierServicer):
    """Serves resources. The application decides which audiences are whose."""

    def __init__(
        self, redeeming: Redeemer, feed: Publisher, live: LiveCalls, clock: Clock, observer: Observer = UNOBSERVED
    ) -> None:
        self._redeeming = redeeming
        self._feed = feed
        self._live = live
        self._clock = clock
        self._observer = observer

    async def Redeem(self, request: verifier_pb2.RedeemRequest, context: _Context) -> verifier_pb2.RedeemResponse:  # noqa: N802 - gRPC's name
        """Takes one use of a grant."""
        try:
            refuse_unknown(request)
            redeemed = await self._redeeming.redeem(
                current_caller().id,
                bounded(request.audience, MAX_ID, "RedeemRequest.audience", least=1),
                ulid_field(request.grant_id, "RedeemRequest.grant_id"),
                ulid_field(request.redemption_id, "RedeemRequest.redemption_id"),
            )
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)
        return verifier_pb2.RedeemResponse(
            accepted=redeemed.accepted,
            remaining_uses=redeemed.remaining_uses,
            code=redeemed.code,
            reason=redeemed.reason[:MAX_TEXT],
        )

    async def Attest(self, request: verifier_pb2.AttestRequest, context: _Context) -> verifier_pb2.AttestResponse:  # noqa: N802 - gRPC's name
        """Records how the resource saw a call come out."""
        try:
            refuse_unknown(request)
            late = await self._redeeming.attest(
                current_caller().id,
                bounded(request.audience, MAX_ID, "AttestRequest.audience", least=1),
                ulid_field(request.grant_id, "AttestRequest.grant_id"),
                outcome_field(request.outcome, "AttestRequest.outcome"),
                digest_field(request.result_sha256, "AttestRequest.result_sha256"),
            )
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)
        return verifier_pb2.AttestResponse(late=late)

    async def Watch(self, request: verifier_pb2.WatchRequest, context: _Context) -> None:  # type: ignore[override]  # noqa: N802 - gRPC's name; its reader-writer form of a stream
        """Snapshot, events, heartbeats, until either side ends it."""
        try:
            refuse_unknown(request)
            audiences = _audiences(request)
            caller = current_caller()
            subscription = self._feed.subscribe(caller.id, audiences)
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)
        lost: list[CallLostError] = []

        def lose(code: str, reason: str) -> None:
            lost.append(CallLostError(code, reason))
            subscription.close()

        call = self._live.enter(caller, lose)
        with contextlib.closing(subscription):
            try:
                async for event in subscription:
                    if lost and lost[0].lost != DRAINING:
                        break
                    await context.write(watch_event(event))
                    self._written(event)
                if lost:
                    raise lost[0]
            except Exception as error:  # noqa: BLE001 - every failure gets its status
                await abort(context, error)
            finally:
                call.leave()

    def _written(self, event: FeedEvent) -> None:
        """A revocation has left for a resource: the only moment of its effect there that a gateway can see."""
        match event.item:
            case RevokedGrant(at=ended) | Lock(issued_at=ended):
                self._observer.time(Timing.REVOKE_TO_FEED, max(self._clock.now() - ended, timedelta(0)))


def _audiences(request: verifier_pb2.WatchRequest) -> tuple[str, ...]:
    if not 1 <= len(request.audiences) <= MAX_AUDIENCES:
        raise ProtocolError(
            f"WatchRequest.audiences has {len(request.audiences)} entries; it takes 1 to {MAX_AUDIENCES}"
        )
    for audience in request.audiences:
        bounded(audience, MAX_ID, "WatchRequest.audiences", least=1)
    if len(set(request.audiences)) != len(request.audiences):
        raise ProtocolError("WatchRequest.audiences names an audience twice")
    return tuple(request.audiences)
