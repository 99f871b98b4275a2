"""How much one workload may ask of a gateway, looked at before anything else is done for it (design 6, Load).

Every bound here is kept by the verified SPIFFE ID of the caller: who asks too much is told when to come back, and what the
others may ask stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Final

from stepgrant_gateway.core.buckets import Buckets, Rate
from stepgrant_gateway.core.observations import UNOBSERVED, Count
from stepgrant_gateway.core.ports import Clock, Observer
from stepgrant_gateway.rpc.limits import (
    ASSIGN_RATE,
    DECLARE_RATE,
    ENFORCE_RATE,
    LOCK_RATE,
    MAX_IDENTITIES,
    MAX_TAILS_PER_IDENTITY,
    MAX_TASKS_PER_IDENTITY,
    MAX_WATCHES_PER_IDENTITY,
    OPEN_RATE,
    OPERATE_RATE,
    PLACE_RETRY_AFTER,
    WATCH_RATE,
)
from stepgrant_gateway.rpc.settings import LimitSettings
from stepgrant_gateway.rpc.status import OverloadedError

_MILLISECOND: Final = timedelta(milliseconds=1)


class Errand(Enum):
    """What a workload comes for; each has a bucket of its own, so that one never waits for another."""

    OPEN = "openings of tasks"
    DECLARE = "declared and renewed steps"
    ASSIGN = "assignments and their withdrawals"
    ENFORCE = "redemptions and attestations"
    WATCH = "subscriptions"
    OPERATE = "operator calls"
    LOCK = "locks"
    TAIL = "tails of the ledger"


RATES: Final[Mapping[Errand, Rate]] = {
    Errand.OPEN: OPEN_RATE,
    Errand.DECLARE: DECLARE_RATE,
    Errand.ASSIGN: ASSIGN_RATE,
    Errand.ENFORCE: ENFORCE_RATE,
    Errand.WATCH: WATCH_RATE,
    Errand.OPERATE: OPERATE_RATE,
    Errand.LOCK: LOCK_RATE,
    Errand.TAIL: WATCH_RATE,
}
ERRANDS: Final[Mapping[str, Errand]] = {
    "/stepgrant.v1.AgentGateway/PerformTask": Errand.OPEN,
    "/stepgrant.v1.Dispatcher/Assign": Errand.ASSIGN,
    "/stepgrant.v1.Dispatcher/Withdraw": Errand.ASSIGN,
    "/stepgrant.v1.GrantVerifier/Redeem": Errand.ENFORCE,
    "/stepgrant.v1.GrantVerifier/Attest": Errand.ENFORCE,
    "/stepgrant.v1.GrantVerifier/Watch": Errand.WATCH,
    "/stepgrant.v1.Operator/ListTasks": Errand.OPERATE,
    "/stepgrant.v1.Operator/ListSteps": Errand.OPERATE,
    # A console that polls must not keep its operator from locking.
    "/stepgrant.v1.Operator/SetLock": Errand.LOCK,
    "/stepgrant.v1.Operator/LiftLock": Errand.OPERATE,
    "/stepgrant.v1.Operator/ListLocks": Errand.OPERATE,
    "/stepgrant.v1.Operator/ReloadPolicy": Errand.OPERATE,
    "/stepgrant.v1.Operator/TailLedger": Errand.TAIL,
}
"""What each method is for. One that is not here is not served."""
PLACES: Final[Mapping[Errand, int]] = {
    Errand.OPEN: MAX_TASKS_PER_IDENTITY,
    Errand.WATCH: MAX_WATCHES_PER_IDENTITY,
    Errand.TAIL: MAX_TAILS_PER_IDENTITY,
}
"""Calls of one identity that may be open at once, for errands that take their time."""


class Quotas:
    """What each identity has left. Belongs to one gateway and its loop."""

    def __init__(
        self, clock: Clock, rates: Mapping[Errand, Rate] = RATES, places: Mapping[Errand, int] = PLACES,
        observer: Observer = UNOBSERVED,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._places = places
        self._observer = observer
        self._buckets = {errand: Buckets(rates[errand], MAX_IDENTITIES) for errand in Errand}
        self._taken: dict[tuple[Errand, str], int] = {}

    @property
    def open(self) -> int:
        """Places that are taken, of all identities."""
        return sum(self._taken.values())

    def wait(self, errand: Errand, identity: str) -> timedelta | None:
        """None, and one is taken; or how long this identity has to wait, in whole milliseconds and at least one."""
        left = self._buckets[errand].take(identity, self._clock.monotonic())
        if left is None:
            return None
        self._observer.count(Count.QUOTA_REFUSAL, errand.name.lower())
        return -(-left // _MILLISECOND) * _MILLISECOND

    @contextmanager
    def admitted(self, method: str, identity: str) -> Iterator[None]:
        """The time of one call of `method`, which holds one of the identity's places if there is a number of them.

        Raises:
            OverloadedError: this identity asks too often, or has too many such calls open; with the time to come back.
        """
        errand = ERRANDS[method]
        wait = self.wait(errand, identity)
        if wait is not None:
            raise OverloadedError(f"{identity} asks too often for {errand.value}: come back later", wait)
        most = self._places.get(errand)
        if most is None:
            yield
            return
        key = (errand, identity)
        if self._taken.get(key, 0) >= most:
            self._observer.count(Count.QUOTA_REFUSAL, errand.name.lower())
            raise OverloadedError(f"{identity} has {most} {errand.value} at once: end some first", PLACE_RETRY_AFTER)
        self._taken[key] = self._taken.get(key, 0) + 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]


def quotas_of(settings: LimitSettings, clock: Clock, observer: Observer) -> Quotas:
    """The quotas that gateway.toml asks for."""
    rates = {
        **RATES,
        Errand.DECLARE: RATES[Errand.DECLARE].at(settings.declares_per_second),
        Errand.OPEN: RATES[Errand.OPEN].at(settings.opens_per_second),
    }
    return Quotas(clock, rates, {**PLACES, Errand.OPEN: settings.open_tasks}, observer)
