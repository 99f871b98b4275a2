"""The revocation view: what one subscription knows is dead, and whether it may still be trusted (design 4).

A pure state machine: events and times go in, refusals come out. A new subscription is a new view.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from stepgrant.errors import GrantRefusedError, ProtocolError, RefusalCode
from stepgrant.feed import (
    MAX_LIFTED,
    MAX_LOCKS,
    MAX_REVOKED,
    SUPERSEDED,
    AnnouncedKey,
    CatalogSlice,
    FeedEvent,
    Heartbeat,
    LiftedLock,
    LockInForce,
    RevokedGrant,
    Snapshot,
    ToolSlice,
)
from stepgrant.grant import FEED_AGE_ALLOWED, LEEWAY, Binding, GrantClaims
from stepgrant.selector import Selector, matches

_WAIT: Final = "Try again in a moment; if it lasts, look at the gateway and at the resource's connection to it."


@dataclass(frozen=True, slots=True)
class AudienceView:
    """The catalog of one audience: how holders prove possession, and its tools by name."""

    binding: Binding
    tools: Mapping[str, ToolSlice]


class RevocationView:
    """The view of one subscription to `audiences`.

    It is trusted from the snapshot on until `lose`, or until an event does not follow the one before; then for ever not.
    """

    def __init__(self, audiences: frozenset[str]) -> None:
        self._audiences = audiences
        self._epoch: str | None = None
        self._position = 0
        self._lost: str | None = "there has been no snapshot yet"
        self._revoked: dict[str, RevokedGrant] = {}
        self._by_expiry: list[tuple[datetime, str]] = []
        self._locks: dict[str, LockInForce] = {}
        self._lifted: dict[str, LiftedLock] = {}
        self._catalog: dict[str, AudienceView] = {}
        self._heard: dict[str, datetime] = {}
        self._included: dict[str, int] = {}
        self._gateway_started: datetime | None = None

    @property
    def trusted(self) -> bool:
        """True between the snapshot and the loss of trust; says nothing of freshness."""
        return self._lost is None

    def lose(self, reason: str) -> None:
        """Ends trust, for good: everything is refused until another view takes over."""
        self._lost = self._lost if self._lost is not None and self._epoch is not None else reason

    def audience(self, audience: str) -> AudienceView | None:
        """The catalog slice of an audience, or None."""
        return self._catalog.get(audience)

    def gateway_time(self, monotonic: timedelta) -> datetime | None:
        """The least that the gateway's clock can show now: the best of all heartbeats, carried on by the monotonic clock."""
        return None if self._gateway_started is None else self._gateway_started + monotonic

    def apply(self, event: FeedEvent, received: timedelta) -> None:
        """Takes in the next event, received at monotonic time `received`.

        Raises:
            ProtocolError: it does not follow, or is out of bounds. Trust has ended.
        """
        try:
            self._in_order(event)
            match event.item:
                case Snapshot() as snapshot:
                    self._start(event, snapshot, received)
                case AnnouncedKey():
                    pass
                case RevokedGrant() as revoked:
                    self._revoke(revoked)
                case LockInForce() as lock:
                    self._lock(lock)
                case LiftedLock() as lifted:
                    self._lift(lifted)
                case CatalogSlice() as catalog:
                    self._describe(catalog)
                case Heartbeat() as heartbeat:
                    self._hear(heartbeat, received)
                case _:
                    raise ProtocolError("the feed sent an event of a kind that this verifier does not know")
        except ProtocolError as error:
            self.lose(str(error))
            raise

    def refuse_lost(self) -> None:
        """Returns if the subscription is whole.

        Raises:
            GrantRefusedError: `feed_stale`: neither keys nor revocations are known now.
        """
        if self._lost is not None:
            raise GrantRefusedError(RefusalCode.FEED_STALE, f"revocations are not known: {self._lost}.", _WAIT)

    def refuse_dead(
        self, claims: GrantClaims, issuer: str, now: datetime, monotonic: timedelta, *, redeemed: bool = False
    ) -> None:
        """Returns if this view is fresh for the grant's `issuer` (a gateway instance) and knows nothing against the grant.

        `redeemed`: the gateway has just let a use of it be taken. A renewal that came after does not undo that.

        Raises:
            GrantRefusedError: `feed_stale`, `revoked` or `locked`.
        """
        # 1. The subscription is whole.
        self.refuse_lost()
        # 2. The issuer of this grant was heard within the tier's budget: by the gateway's time, which the monotonic clock
        #    carries on, and by the own clock, so that a feed that is held back from its start is noticed too.
        heard, budget = self._heard.get(issuer), FEED_AGE_ALLOWED[claims.tier]
        gateway_now = self.gateway_time(monotonic)
        if heard is None or gateway_now is None or gateway_now - heard > budget or now - heard > budget + LEEWAY:
            raise GrantRefusedError(RefusalCode.FEED_STALE, "the grant's issuer has not been heard of lately.", _WAIT)
        # 3. The grant has not died before its time.
        revoked = self._revoked.get(claims.grant_id)
        if revoked is not None and not (redeemed and revoked.code == SUPERSEDED):
            raise GrantRefusedError(
                RefusalCode.REVOKED,
                f"the grant is dead: {revoked.code} at {revoked.at.time().isoformat('milliseconds')}Z.",
                "Declare a new step.",
            )
        # 4. No lock in force matches, and none that was lifted after the grant was issued.
        for lock in self._locks.values():
            if _falls_under(lock.selector, claims):
                reason = lock.reason or "no reason was given"
                raise GrantRefusedError(RefusalCode.LOCKED, f"locked by an operator: {reason}.", "Ask the operator.")
        for lifted in self._lifted.values():
            if claims.issued_at <= lifted.refuse_issued_until and _falls_under(lifted.selector, claims):
                raise GrantRefusedError(
                    RefusalCode.LOCKED, "a lock that has been lifted ended this grant.", "Declare a new step."
                )

    def _in_order(self, event: FeedEvent) -> None:
        if self._epoch is None:
            if not isinstance(event.item, Snapshot) or (event.position, event.previous_position) != (1, 0):
                raise ProtocolError("the feed does not begin with a snapshot")
            return
        if self._lost is not None:
            raise ProtocolError("the feed has lost its trust already")
        if event.epoch != self._epoch:
            raise ProtocolError("the feed changed its epoch within one subscription")
        if event.previous_position != self._position or event.position != self._position + 1:
            raise ProtocolError(f"the feed skipped or repeated events after position {self._position}")
        if isinstance(event.item, Snapshot):
            raise ProtocolError("the feed sent a second snapshot")
        self._position = event.position

    def _start(self, event: FeedEvent, snapshot: Snapshot, received: timedelta) -> None:
        for revoked in snapshot.revoked:
            self._revoke(revoked)
        for lock in snapshot.locks:
            self._lock(lock)
        for lifted in snapshot.lifted:
            self._lift(lifted)
        for catalog in snapshot.catalog:
            self._describe(catalog)
        self._hear(snapshot.heartbeat, received)
        self._epoch, self._position, self._lost = event.epoch, event.position, None

    def _revoke(self, revoked: RevokedGrant) -> None:
        if revoked.grant_id in self._revoked:
            return
        if len(self._revoked) >= MAX_REVOKED:
            raise ProtocolError(f"more than {MAX_REVOKED} dead grants that have not run out")
        self._revoked[revoked.grant_id] = revoked
        heapq.heappush(self._by_expiry, (revoked.expires_at + LEEWAY, revoked.grant_id))

    def _lock(self, lock: LockInForce) -> None:
        if lock.lock_id not in self._locks and len(self._locks) >= MAX_LOCKS:
            raise ProtocolError(f"more than {MAX_LOCKS} locks")
        self._locks[lock.lock_id] = lock

    def _lift(self, lifted: LiftedLock) -> None:
        if lifted.lock_id not in self._lifted and len(self._lifted) >= MAX_LIFTED:
            raise ProtocolError(f"more than {MAX_LIFTED} lifted locks")
        self._locks.pop(lifted.lock_id, None)
        self._lifted[lifted.lock_id] = lifted

    def _describe(self, catalog: CatalogSlice) -> None:
        if catalog.audience not in self._audiences:
            raise ProtocolError("the feed describes an audience that was not asked for")
        self._catalog[catalog.audience] = AudienceView(catalog.binding, {tool.tool: tool for tool in catalog.tools})

    def _hear(self, heartbeat: Heartbeat, received: timedelta) -> None:
        included = self._included.get(heartbeat.instance_id, 0)
        if heartbeat.included_sequence < included:
            raise ProtocolError(f"the feed of {heartbeat.instance_id} went back below event {included}")
        self._included[heartbeat.instance_id] = heartbeat.included_sequence
        started = heartbeat.at - received
        if self._gateway_started is None or started > self._gateway_started:
            self._gateway_started = started
        elif self._gateway_started - started > max(FEED_AGE_ALLOWED.values()):
            raise ProtocolError("the feed is late, or the gateway's clock was set back")
        self._heard[heartbeat.instance_id] = heartbeat.at
        self._forget(self._gateway_started + received)

    def _forget(self, gateway_now: datetime) -> None:
        """Forgets what the expiry check refuses anyway: it too compares with no less than the gateway's time."""
        while self._by_expiry and self._by_expiry[0][0] < gateway_now:
            self._revoked.pop(heapq.heappop(self._by_expiry)[1], None)
        for lock_id in [lock_id for lock_id, lifted in self._lifted.items() if lifted.forget_at < gateway_now]:
            del self._lifted[lock_id]


def _falls_under(selector: Selector, claims: GrantClaims) -> bool:
    subject = None if claims.on_behalf_of is None else str(claims.on_behalf_of)
    return any(
        matches(
            selector,
            workload=workload,
            task_type=claims.task_type,
            tool=claims.tool,
            target=claims.target,
            subject=subject,
        )
        for workload in {claims.subject, *claims.chain}
    )
