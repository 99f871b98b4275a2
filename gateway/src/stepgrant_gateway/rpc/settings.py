"""`[limits]` of gateway.toml."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from stepgrant_gateway.core.grants import MAX_LINGER
from stepgrant_gateway.core.settings import Place, Section, setting
from stepgrant_gateway.rpc.limits import DECLARE_RATE, MAX_TASKS_PER_IDENTITY, OPEN_RATE

MAX_LIMIT: Final = 100_000


def read_limit(value: object, place: Place) -> int:
    """A number that neither lets nobody through nor everybody."""
    if type(value) is not int or not 1 <= value <= MAX_LIMIT:
        raise place.error(f"a whole number from 1 to {MAX_LIMIT} is wanted")
    return value


def read_linger(value: object, place: Place) -> int:
    """Whole seconds, at most what the tiers give: configuration only tightens."""
    most = MAX_LINGER // timedelta(seconds=1)
    if type(value) is not int or not 0 <= value <= most:
        raise place.error(f"a whole number of seconds from 0 to {most} is wanted")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings(Section):
    """What one SPIFFE ID may ask of this gateway; a rate is multiplied for what may come at once after a pause."""

    declares_per_second: int = setting(
        "Declares and renewals; five times as many at once.", read_limit, DECLARE_RATE.per_second
    )
    opens_per_second: int = setting("Openings of tasks; ten times as many at once.", read_limit, OPEN_RATE.per_second)
    open_tasks: int = setting("Task streams open at once.", read_limit, MAX_TASKS_PER_IDENTITY)
    linger_seconds: int = setting(
        "Seconds for which a task whose stream is gone can be taken up again; 0 = never.",
        read_linger,
        MAX_LINGER // timedelta(seconds=1),
    )
