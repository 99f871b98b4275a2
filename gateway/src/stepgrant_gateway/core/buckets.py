"""Token buckets: how often somebody may ask. Whole numbers throughout, so nothing drifts however long a bucket lives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

_MICROSECOND: Final = timedelta(microseconds=1)
_TOKEN: Final = 1_000_000
"""Parts of one token: a rate of n tokens a second is then exactly n parts a microsecond, the finest time there is."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second for ever, and `burst` at once after a pause. Both are at least 1."""

    per_second: int
    burst: int

    def __post_init__(self) -> None:
        """Refuses a rate that would never let anybody through."""
        if self.per_second < 1 or self.burst < 1:
            raise ValueError(f"a rate of {self.per_second} a second and {self.burst} at once lets nobody through")

    def at(self, per_second: int) -> Rate:
        """The rate of `per_second` that gives as many seconds' worth at once."""
        return Rate(per_second, max(self.burst * per_second // self.per_second, 1))


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """What is left for one asker: `parts` (millionths of a token) were there at `at`, a monotonic time."""

    rate: Rate
    parts: int
    at: timedelta

    @classmethod
    def full(cls, rate: Rate, now: timedelta) -> TokenBucket:
        """The bucket of somebody who has not asked yet."""
        return cls(rate, rate.burst * _TOKEN, now)

    def take(self, now: timedelta) -> tuple[TokenBucket, timedelta | None]:
        """The bucket after one more question, and None; or, when it is empty, how long until one token is there.

        A question that is refused takes nothing. A time before the last one adds nothing.
        """
        filled = self._filled(now)
        if filled.parts >= _TOKEN:
            return replace(filled, parts=filled.parts - _TOKEN), None
        missing = _TOKEN - filled.parts
        return filled, -(-missing // self.rate.per_second) * _MICROSECOND

    def is_full(self, now: timedelta) -> bool:
        """True if it says no more than a bucket that was never asked."""
        return self._filled(now).parts == self.rate.burst * _TOKEN

    def _filled(self, now: timedelta) -> TokenBucket:
        if now <= self.at:
            return self
        parts = self.parts + (now - self.at) // _MICROSECOND * self.rate.per_second
        return replace(self, parts=min(parts, self.rate.burst * _TOKEN), at=now)


class Buckets:
    """One bucket a key, for at most `most` keys; keys beyond that share one, so that memory has an end and nobody is
    let through for being new. A key that has not asked for so long that its bucket is full gives its place up.
    """

    def __init__(self, rate: Rate, most: int) -> None:
        self._rate = rate
        self._most = most
        self._shared: TokenBucket | None = None
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        """Keys that have a bucket of their own."""
        return len(self._buckets)

    def take(self, key: str, now: timedelta) -> timedelta | None:
        """None if `key` may ask now, else how long it has to wait."""
        bucket = self._buckets.pop(key, None)
        if bucket is None and not self._has_room(now):
            self._shared, wait = (self._shared or TokenBucket.full(self._rate, now)).take(now)
            return wait
        # Put back at the end: the key that asked longest ago stands first, and is the first to be full again.
        self._buckets[key], wait = (bucket or TokenBucket.full(self._rate, now)).take(now)
        return wait

    def _has_room(self, now: timedelta) -> bool:
        if len(self._buckets) < self._most:
            return True
        oldest = next(iter(self._buckets))
        if not self._buckets[oldest].is_full(now):
            return False
        del self._buckets[oldest]
        return True
