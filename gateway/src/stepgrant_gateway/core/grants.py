"""What a grant is worth, and how long it can live (invariant 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final, NamedTuple

from stepgrant.errors import DenialCode
from stepgrant.grant import Tier
from stepgrant_gateway.core.decision import Call, Permitted, PolicyPlace

TTL_CAP: Final[Mapping[Tier, timedelta]] = {
    Tier.ROUTINE: timedelta(seconds=60),
    Tier.SENSITIVE: timedelta(seconds=30),
}
"""Longest life of one grant (design 5.5)."""

LONGEST_GRANT: Final = max(TTL_CAP.values())

STEP_MAX_AGE: Final[Mapping[Tier, timedelta]] = {
    Tier.ROUTINE: timedelta(minutes=10),
    Tier.SENSITIVE: timedelta(minutes=5),
}
"""Longest life of a step with all its renewals."""

LINGER: Final[Mapping[Tier, timedelta]] = {
    Tier.ROUTINE: timedelta(seconds=5),
    Tier.SENSITIVE: timedelta(seconds=5),
}
"""How long a task that has granted this tier can be taken up again after its stream has ended."""
MAX_LINGER: Final = max(LINGER.values())

SHORTEST: Final = timedelta(seconds=1)
"""A grant with less than this left is a denial."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a grant is worth. `uses` None = not limited within the ttl; `places`: the permits that are satisfied."""

    ttl: timedelta
    uses: int | None
    tier: Tier
    places: tuple[PolicyPlace, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """Ids of the satisfied permits."""
        return tuple([place.policy_id for place in self.places])


class Bound(NamedTuple):
    """A moment that a grant may not outlive, and the code that names it in a denial."""

    at: datetime
    code: DenialCode


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Whole seconds, aware UTC: `issued_at` rounded down, `expires_at` rounded down."""

    issued_at: datetime
    expires_at: datetime


def settle_terms(permitted: Permitted, call: Call, wanted: timedelta | None) -> Terms:
    """The least that wish, satisfied permits and tier allow (design 5.3, step 4)."""
    ttl, uses = TTL_CAP[call.tier], None
    if wanted is not None:
        ttl = min(ttl, wanted)
    for permit in permitted.permits:
        if permit.ttl is not None:
            ttl = min(ttl, permit.ttl)
        if permit.uses is not None:
            uses = permit.uses if uses is None else min(uses, permit.uses)
    if uses is None and not call.tool.only_reads:
        uses = 1
    return Terms(ttl, uses, call.tier, tuple([permit.place for permit in permitted.permits]))


def bound_lifetime(now: datetime, ttl: timedelta, bounds: Iterable[Bound]) -> Lifetime | DenialCode:
    """The grant's times, or the code of the bound that leaves it less than a second."""
    nearest = min(bounds, key=attrgetter("at"))
    end = min(now + ttl, nearest.at)
    expires_at = datetime.fromtimestamp(int(end.timestamp()), UTC)
    if expires_at - now < SHORTEST:
        return nearest.code if nearest.at <= now + ttl else DenialCode.STEP_EXPIRING
    return Lifetime(datetime.fromtimestamp(int(now.timestamp()), UTC), expires_at)
