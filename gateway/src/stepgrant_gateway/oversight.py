"""What an operator sees of a running gateway: its health, its metrics, and the listener that shows both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from cryptography import x509

from stepgrant.errors import IdentityUnavailableError
from stepgrant.grant import HEARTBEAT, LEEWAY
from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.app.retention import Retention
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.core.ports import Clock
from stepgrant_gateway.health import Check, Condition, Health
from stepgrant_gateway.identity.federation import FederatedIdentity
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.storage.space import DiskSpace
from stepgrant_gateway.tokens.keys import SigningKeys
from stepgrant_gateway.web.listener import Listener
from stepgrant_gateway.web.metrics import Level, Metrics
from stepgrant_gateway.web.pages import pages
from stepgrant_gateway.web.settings import MetricsSettings

NONE: Final = 0.0


@dataclass(frozen=True, slots=True)
class Watched:
    """The parts of a gateway that are looked at."""

    state: State
    recorder: Recorder
    feed: Feed
    keys: SigningKeys
    retention: Retention
    live: LiveCalls
    identity: FederatedIdentity
    stale: Check
    space: DiskSpace

    def checks(self, clock: Clock) -> Mapping[str, Check]:
        """What keeps a gateway from its work, by name. A policy set is not among them: without one no gateway starts."""
        return {
            "ledger": lambda: self.recorder.trouble,
            "clock": lambda: _clock_trouble(self.behind(clock)),
            "identity": self.stale,
            "signing_key": self._no_key,
        }

    def behind(self, clock: Clock) -> timedelta:
        """How far the wall clock is behind the latest durable event."""
        latest = self.state.latest
        return max(timedelta(0) if latest is None else latest - clock.now(), timedelta(0))

    def levels(self, clock: Clock) -> dict[Level, float]:
        """What is true now, but for the lag of the loop itself."""
        svid, bundle = self._expiries()
        disk = {} if self.space.free is None else {Level.LEDGER_DISK_FREE_BYTES: float(self.space.free)}
        return disk | {
            Level.LIVE_GRANTS: sum(len(task.live) for task in self.state.tasks.values()),
            Level.LIVE_TASKS: len(self.state.tasks),
            Level.OPEN_STREAMS: len(self.live),
            Level.LOCKS: len(self.state.locks),
            Level.LEDGER_WAITING_EVENTS: self.recorder.waiting,
            Level.LEDGER_OLDEST_WAITING_SECONDS: self.recorder.lag.total_seconds(),
            Level.FEED_AGE_SECONDS: self.feed.age.total_seconds(),
            Level.FEED_SUBSCRIBERS: self.feed.subscribers,
            Level.SVID_EXPIRY_TIMESTAMP_SECONDS: svid,
            Level.BUNDLE_EXPIRY_TIMESTAMP_SECONDS: bundle,
            Level.FEDERATED_BUNDLES_STALE: len(self.identity.stale()),
            Level.SIGNING_KEY_EXPIRY_TIMESTAMP_SECONDS: self.keys.due().timestamp(),
            Level.CLOCK_BEHIND_SECONDS: self.behind(clock).total_seconds(),
            Level.RETENTION_AGE_SECONDS: self.retention.age.total_seconds(),
        }

    def _no_key(self) -> str | None:
        try:
            self.keys.active()
        except GatewayError as error:
            return str(error)
        return None

    def _expiries(self) -> tuple[float, float]:
        try:
            snapshot = self.identity.current()
        except IdentityUnavailableError:
            return NONE, NONE
        bundle = snapshot.bundles.get(snapshot.spiffe_id.trust_domain)
        ends = [
            x509.load_der_x509_certificate(der).not_valid_after_utc for der in (bundle.authorities if bundle else ())
        ]
        return snapshot.not_after.timestamp(), min((end.timestamp() for end in ends), default=NONE)


class Oversight:
    """Looks each second, from the gateway's own loop, and shows what it sees: by gRPC health and by HTTP."""

    def __init__(
        self,
        watched: Watched,
        clock: Clock,
        metrics: Metrics | None,
        show: Callable[[frozenset[str]], Coroutine[Any, Any, None]],
    ) -> None:
        """`show` is told the names of the troubles whenever they have changed. Belongs to the running loop."""
        self._watched = watched
        self._clock = clock
        self._metrics = metrics
        self._show = show
        self._beaten_at: timedelta | None = None
        self._telling: asyncio.Task[None] | None = None
        self.http_port = 0
        self.health = Health(clock, watched.checks(clock), self._changed)

    def look(self) -> None:
        """Takes in how everything is now."""
        now = self._clock.monotonic()
        lag = timedelta(0) if self._beaten_at is None else max(now - self._beaten_at - HEARTBEAT, timedelta(0))
        self._beaten_at = now
        self.health.look()
        self._watched.space.look()
        if self._metrics is not None:
            levels = {**self._watched.levels(self._clock), Level.EVENT_LOOP_LAG_SECONDS: lag.total_seconds()}
            troubles = self.health.latest.troubles
            failing = {name: name in troubles for name in sorted(self.health.checks)}
            self._metrics.show(levels, self._watched.state.policy.digest, failing)

    @contextmanager
    def shown(self, settings: MetricsSettings) -> Iterator[None]:
        """The time in which the HTTP listener serves, if there is to be one.

        Raises:
            ConfigError: nothing can listen at its address.
        """
        if settings.address is None or self._metrics is None:
            yield
            return
        served = pages(self._metrics.page, lambda: self.health.latest, self._clock.monotonic)
        listener = Listener(settings.address, served)
        self.http_port = listener.port
        try:
            yield
        finally:
            listener.close()

    async def begin(self) -> None:
        """Looks for the first time, and returns once what is seen is said."""
        self.look()
        if self._telling is not None:
            await self._telling

    async def drain(self) -> None:
        """Not ready from now on; returns once that is said."""
        self.health.drain()
        if self._telling is not None:
            await self._telling

    def _changed(self, condition: Condition) -> None:
        before, names = self._telling, frozenset(condition.troubles)

        async def tell() -> None:
            if before is not None:
                await before
            await self._show(names)

        self._telling = asyncio.get_running_loop().create_task(tell())


def _clock_trouble(behind: timedelta) -> str | None:
    if behind <= LEEWAY:
        return None
    return f"the wall clock is {behind.total_seconds():.0f} s behind the latest event of the ledger: set it"
