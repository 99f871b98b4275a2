"""The verifier that a resource runs: feed, verification, redemption, attestation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Final

from stepgrant.calls import Call
from stepgrant.clock import Clock, LoopClock
from stepgrant.dpop import ReplayCache
from stepgrant.errors import GrantRefusedError, RefusalCode, StepgrantError
from stepgrant.grant import Binding
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.spiffe.source import IdentitySource
from stepgrant.verify.feed import TrustedFeed
from stepgrant.verify.link import GatewayLink
from stepgrant.verify.peers import TlsPeers
from stepgrant.verify.upstream import Upstream
from stepgrant.verify.verifier import Expected, Holder, VerifiedCall, verify_grant
from stepgrant.verify.watch import Watcher

READY_WITHIN: Final = timedelta(seconds=10)
LOOK_UP_AGAIN: Final = timedelta(seconds=1)
"""At most one look-up of keys in this time, however many grants name keys that nobody knows."""

_REFUSED: Final = {
    "revoked": RefusalCode.REVOKED,
    "superseded": RefusalCode.REVOKED,
    "unknown_grant": RefusalCode.REVOKED,
    "used_up": RefusalCode.USED_UP,
    "expired": RefusalCode.EXPIRED,
}
_log = logging.getLogger(__name__)


class Verifier:
    """Verifies calls for one audience. Made by `connect`; for one event loop."""

    def __init__(
        self,
        expected: Expected,
        feed: TrustedFeed,
        upstream: Upstream,
        clock: Clock,
        *,
        peers: TlsPeers,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._expected = expected
        self._feed = feed
        self._upstream = upstream
        self._clock = clock
        self._entropy = entropy
        self._replay = ReplayCache(since=clock.now())
        self._looked_up: timedelta | None = None
        self._look_up_lock = asyncio.Lock()
        self.peers = peers
        self.watcher = Watcher(feed, upstream, clock)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, *, gateway: str, gateway_id: str, audience: str, identity: IdentitySource, clock: Clock | None = None
    ) -> AsyncIterator[Verifier]:
        """A verifier whose feed runs for the length of the `async with`; it refuses everything until `ready`.

        `gateway` is `host:port`, `gateway_id` the SPIFFE ID of the installation's gateways, which is also the issuer.

        Raises:
            MisuseError: the gateway's ID or the audience is not set.
        """
        expected, clock = Expected.of(gateway_id, audience), clock or LoopClock()
        feed = TrustedFeed(frozenset({expected.audience}))
        link = GatewayLink(gateway, expected.issuer, identity, clock)
        verifier = cls(expected, feed, link, clock, peers=TlsPeers(identity, clock))
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                loop.call_soon_threadsafe(verifier.watcher.resync)

        unsubscribe = identity.subscribe(changed)
        running = asyncio.create_task(verifier.watcher.run())
        try:
            yield verifier
        finally:
            unsubscribe()
            running.cancel()
            await asyncio.wait({running})

    @property
    def audience(self) -> str:
        """The audience that calls are verified for."""
        return self._expected.audience

    @property
    def healthy(self) -> bool:
        """True while the feed is trusted: for health checks."""
        return self._feed.view.trusted

    @property
    def binding(self) -> Binding | None:
        """How holders prove possession to this audience; None before the catalog is known."""
        known = self._feed.view.audience(self._expected.audience)
        return known.binding if known is not None else None

    async def ready(self, within: timedelta = READY_WITHIN) -> None:
        """Returns once the feed is trusted.

        Raises:
            GatewayUnavailableError: not within that time.
        """
        await self.watcher.ready(within)

    async def verify(self, token: str, call: Call, holder: Holder) -> VerifiedCall:
        """The verified call, its use taken at the gateway where the grant demands it. After this, act at once.

        Raises:
            GrantRefusedError: why not, and what to do.
        """
        try:
            verified = self._verify(token, call, holder)
        except GrantRefusedError as refused:
            if refused.refusal.code is not RefusalCode.UNKNOWN_KEY or not await self._look_up_keys():
                raise
            verified = self._verify(token, call, holder)
        if verified.claims.must_be_redeemed:
            await self._redeem(verified)
            # The gateway was asked, and meanwhile the feed went on.
            now, monotonic = self._clock.now(), self._clock.monotonic()
            self._feed.view.refuse_dead(verified.claims, verified.issuer_instance, now, monotonic, redeemed=True)
        return verified

    async def attest(self, verified: VerifiedCall, *, completed: bool, result_sha256: bytes | None = None) -> bool:
        """Tells the gateway how the call came out; False, and a line in the log, when it could not be told."""
        try:
            await self._upstream.attest(
                self.audience, verified.claims.grant_id, completed=completed, result_sha256=result_sha256
            )
        except StepgrantError as error:
            _log.warning("The outcome of grant %s could not be attested: %s", verified.claims.grant_id, error)
            return False
        return True

    def _verify(self, token: str, call: Call, holder: Holder) -> VerifiedCall:
        return verify_grant(
            token,
            call,
            holder,
            expected=self._expected,
            feed=self._feed,
            replay=self._replay,
            now=self._clock.now(),
            monotonic=self._clock.monotonic(),
        )

    async def _look_up_keys(self) -> bool:
        """True once keys were fetched anew: a grant can be faster than the announcement of its key."""
        asked = self._clock.monotonic()
        async with self._look_up_lock:
            if self._looked_up is not None and self._looked_up >= asked:
                return True
            if self._looked_up is not None and asked - self._looked_up < LOOK_UP_AGAIN:
                return False
            self._looked_up = self._clock.monotonic()
            try:
                snapshot = await self._upstream.snapshot(self._feed.audiences)
                self._feed.learn_keys(snapshot.keys, self._upstream.authority(), self._clock.now())
            except StepgrantError as error:
                _log.warning("Keys could not be looked up: %s", error)
                return False
            return True

    async def _redeem(self, verified: VerifiedCall) -> None:
        redemption_id = ulid(self._clock.now(), self._entropy(ULID_RANDOM_BYTES))
        try:
            answer = await self._upstream.redeem(self.audience, verified.claims.grant_id, redemption_id)
        except StepgrantError as error:
            raise GrantRefusedError(
                RefusalCode.REDEMPTION_UNAVAILABLE,
                "the use of the grant could not be taken at the gateway.",
                "The call did not run. If the grant is refused as used up, declare a new step.",
            ) from error
        if not answer.accepted:
            code = _REFUSED.get(answer.code, RefusalCode.REVOKED)
            raise GrantRefusedError(code, f"the gateway refused the use: {answer.reason}", "Declare a new step.")
