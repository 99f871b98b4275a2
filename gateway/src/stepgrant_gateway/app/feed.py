"""The feed: what every subscribed resource must know, pushed at once; a slow reader is cut off, never skipped."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Final

from stepgrant.grant import LEEWAY
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant_gateway.app.state import State
from stepgrant_gateway.app.walltime import SET_BACK, WallTime
from stepgrant_gateway.core.errors import GatewayError, NotAllowedError
from stepgrant_gateway.core.grants import LONGEST_GRANT
from stepgrant_gateway.core.observations import UNOBSERVED, Count
from stepgrant_gateway.core.ports import Catalog, Clock, Entropy, LedgerHead, Observer
from stepgrant_gateway.core.revocation import (
    AnnouncedKey,
    CatalogSlice,
    FeedEvent,
    FeedItem,
    Heartbeat,
    LiftedLock,
    Lock,
    RevokedGrant,
    Snapshot,
    ToolSlice,
)

MAX_BACKLOG: Final = 10_000
"""Events that wait for one reader; with more it is cut off and has to resync."""
MAX_SUBSCRIPTIONS: Final = 1024
KEPT: Final = LEEWAY + SET_BACK
"""How long after its `exp` a dead grant is still told of: no clock that counts as right shows an earlier time by then."""

logger = logging.getLogger(__name__)


class SubscriptionLostError(GatewayError):
    """The subscription has ended: its reader was too slow, or an audience is not the caller's any more."""

    code = "subscription_lost"


class Subscription:
    """One resource's view of the feed: iterate for its events; `close` when the reader has gone."""

    def __init__(
        self,
        caller: str,
        audiences: frozenset[str],
        epoch: str,
        snapshot: Snapshot,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.caller = caller
        self.audiences = audiences
        self._observer = observer
        self._epoch = epoch
        self._position = 0
        self._waiting: deque[FeedEvent] = deque()
        self._arrived = asyncio.Event()
        self._lost: str | None = None
        self._closed = False
        self.put(snapshot)

    def put(self, item: FeedItem) -> None:
        """Queues an item that is this subscription's business."""
        if isinstance(item, RevokedGrant | CatalogSlice) and item.audience not in self.audiences:
            return
        if len(self._waiting) >= MAX_BACKLOG:
            self.lose("slow", "the reader is too slow")
            return
        self._position += 1
        self._waiting.append(FeedEvent(self._epoch, self._position, self._position - 1, item))
        self._arrived.set()

    def lose(self, code: str, why: str) -> None:
        """Ends the subscription; what waits is not delivered. `code` is one of a few, for who counts."""
        logger.warning(
            "Resource %s was cut off the feed: %s", self.caller, why,
            extra={"event": "feed_reader_cut_off", "workload": self.caller},
        )  # fmt: skip
        self._observer.count(Count.FEED_CUT_OFF, code)
        self._lost = why
        self._waiting.clear()
        self._arrived.set()

    def close(self) -> None:
        """The reader has gone."""
        self._closed = True
        self._arrived.set()

    @property
    def over(self) -> bool:
        """True if nothing will be delivered any more."""
        return self._closed or self._lost is not None

    async def __aiter__(self) -> AsyncIterator[FeedEvent]:
        """The events, snapshot first.

        Raises:
            SubscriptionLostError: the reader has to subscribe anew.
        """
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._lost is not None:
                raise SubscriptionLostError(f"subscribe again: {self._lost}")
            if self._closed:
                return
            self._arrived.clear()
            await self._arrived.wait()


class Feed:
    """What is to be known now, and who is told of changes."""

    def __init__(
        self, *, state: State, clock: Clock, entropy: Entropy, instance_id: str, head: LedgerHead,
        observer: Observer = UNOBSERVED,
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._instance_id = instance_id
        self._head = head
        self._observer = observer
        self.wall = WallTime(clock)
        self._beaten_at = clock.monotonic()
        self._keys: dict[str, AnnouncedKey] = {}
        self._revoked: dict[str, tuple[RevokedGrant, timedelta]] = {}
        self._subscriptions: list[Subscription] = []

    def subscribe(self, caller: str, audiences: Sequence[str]) -> Subscription:
        """A subscription to audiences, each of which the catalog gives to the caller.

        Raises:
            NotAllowedError: one is not the caller's, or there are too many subscriptions.
            SubscriptionLostError: the clock was set back, and what was stamped before is not out yet.
        """
        if self.wall.set_back():
            raise SubscriptionLostError("subscribe again: the gateway's clock was set back")
        for audience in audiences:
            self.require_verifier(caller, audience)
        self._subscriptions = [subscription for subscription in self._subscriptions if not subscription.over]
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise NotAllowedError(f"{MAX_SUBSCRIPTIONS} resources watch already")
        epoch = ulid(self._clock.now(), self._entropy(ULID_RANDOM_BYTES))
        snapshot = self._snapshot(frozenset(audiences))
        subscription = Subscription(caller, frozenset(audiences), epoch, snapshot, self._observer)
        self._subscriptions.append(subscription)
        return subscription

    def require_verifier(self, caller: str, audience: str) -> None:
        """Nothing, if the catalog gives the audience to the caller.

        Raises:
            NotAllowedError: it does not, or there is no such audience; the caller cannot tell which.
        """
        known = self._state.policy.catalog.audiences.get(audience)
        if known is None or caller not in known.verifiers:
            raise NotAllowedError(
                f"the catalog does not give audience {audience!r} to {caller}: list it under `verifiers`"
            )

    def publish(self, item: AnnouncedKey | RevokedGrant | Lock | LiftedLock) -> None:
        """Tells everybody, and keeps it for those who come later."""
        if isinstance(item, AnnouncedKey):
            self._keys[item.kid] = item
        elif isinstance(item, RevokedGrant):
            # By both clocks: a wall clock that is ahead for a while must not have its revocations forgotten.
            self._revoked[item.grant_id] = (item, self._clock.monotonic() + LONGEST_GRANT + KEPT)
        self._send(item)

    def publish_catalog(self, former: Catalog) -> None:
        """Tells everybody what the catalog says now and `former` did not; who may not hear it any more is cut off."""
        catalog = self._state.policy.catalog
        slices = {audience: _slice(catalog, audience) for audience in catalog.audiences}
        told = {audience for audience in former.audiences if slices.get(audience) == _slice(former, audience)}
        for subscription in self._subscriptions:
            if subscription.over:
                continue
            for audience in subscription.audiences:
                known = catalog.audiences.get(audience)
                if known is None or subscription.caller not in known.verifiers:
                    subscription.lose("not_allowed", f"audience {audience!r} is not the caller's any more")
                    break
                if audience not in told:
                    subscription.put(slices[audience])

    def heartbeat(self) -> None:
        """Tells everybody that this instance lives and how far its events are included; forgets what has run out."""
        now = self._clock.now()
        monotonic = self._clock.monotonic()
        for grant_id, (item, kept_until) in list(self._revoked.items()):
            if item.expires_at + KEPT < now and kept_until < monotonic:
                del self._revoked[grant_id]
        for kid in [key for key, item in self._keys.items() if item.not_after + LEEWAY < now]:
            del self._keys[kid]
        self._state.lifted = [item for item in self._state.lifted if item.forget_at >= now]
        self._send(self._beat())
        self._beaten_at = self._clock.monotonic()

    @property
    def age(self) -> timedelta:
        """Time since the last heartbeat, which resources judge the feed by."""
        return self._clock.monotonic() - self._beaten_at

    @property
    def subscribers(self) -> int:
        """Resources that watch now."""
        return sum(not subscription.over for subscription in self._subscriptions)

    def revoked(self, grant_id: str) -> RevokedGrant | None:
        """What is known of a grant that died early."""
        found = self._revoked.get(grant_id)
        return None if found is None else found[0]

    def begin_anew(self) -> None:
        """No key of before counts any more, and so no grant: every subscription ends, and begins with the keys to come."""
        self._keys.clear()
        for subscription in self._subscriptions:
            if not subscription.over:
                subscription.lose("clock_set_back", "the gateway's clock was set back")

    def _send(self, item: FeedItem) -> None:
        for subscription in self._subscriptions:
            if not subscription.over:
                subscription.put(item)

    def _beat(self) -> Heartbeat:
        return Heartbeat(self._instance_id, self._clock.now(), self._head.position, self._head.checkpoint())

    def _snapshot(self, audiences: frozenset[str]) -> Snapshot:
        return Snapshot(
            keys=tuple(self._keys.values()),
            revoked=tuple(item for item, _ in self._revoked.values() if item.audience in audiences),
            locks=tuple(self._state.locks.values()),
            lifted=tuple(self._state.lifted),
            catalog=tuple(_slice(self._state.policy.catalog, audience) for audience in sorted(audiences)),
            heartbeat=self._beat(),
        )


def _slice(catalog: Catalog, audience: str) -> CatalogSlice:
    tools = (tool for tool in catalog.tools.values() if tool.audience.id == audience)
    return CatalogSlice(
        audience=audience,
        binding=catalog.audiences[audience].binding,
        tools=tuple(ToolSlice(tool.name, tool.digest, tool.target_template) for tool in tools),
    )
