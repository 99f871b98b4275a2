"""The real clock, the real random source, and where the real identity comes from."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from stepgrant.spiffe.files import FileSource
from stepgrant.spiffe.source import IdentitySource
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.settings import IdentitySettings


class SystemClock:
    """`core.ports.Clock` of the running event loop."""

    def now(self) -> datetime:
        """Wall-clock time, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> timedelta:
        """Time of the loop's own clock, so that timers and deadlines agree."""
        # Whole microseconds, for which a timedelta takes no arithmetic with floats.
        return timedelta(0, 0, time.monotonic_ns() // 1000)

    def call_at(self, when: timedelta, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls `callback` once when `monotonic()` has reached `when`; needs a running loop."""
        loop = asyncio.get_running_loop()
        return loop.call_later(max((when - self.monotonic()).total_seconds(), 0.0), callback)


def system_entropy(count: int, /) -> bytes:
    """`count` random bytes of the operating system."""
    return os.urandom(count)


def identity_source(
    settings: IdentitySettings, environment: Mapping[str, str], *, jwt_authorities: bool = False
) -> IdentitySource:
    """Where the SVID comes from, and the JWT authorities if they are wanted; raises ConfigError if nothing says where."""
    now = SystemClock().now
    if settings.chain is not None and settings.key is not None and settings.bundle is not None:
        if settings.trust_domain is None:
            raise ConfigError("identity.trust_domain is not set; with files it says whose authorities `bundle` holds")
        return FileSource(
            settings.chain,
            settings.key,
            settings.bundle,
            trust_domain=settings.trust_domain,
            now=now,
            federated=settings.federated,
        )
    socket = settings.socket or environment.get("SPIFFE_ENDPOINT_SOCKET")
    if not socket:
        raise ConfigError(
            "there is no Workload API: set SPIFFE_ENDPOINT_SOCKET, or identity.socket in gateway.toml; "
            "`stepgrant dev` brings one for trying things out"
        )
    return WorkloadApiSource(socket, now=now, jwt_authorities=jwt_authorities)
