"""Verifications that came out well, remembered by a digest of what was verified; the least used goes first."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

MAX_CACHED: Final = 16_384
"""Successes remembered: one for each of 10,000 streams and room for rotation."""

_Success = TypeVar("_Success")


class Successes(Generic[_Success]):
    """At most `max_cached` of them. For one event loop."""

    def __init__(self, max_cached: int = MAX_CACHED) -> None:
        self._max_cached = max_cached
        self._known: OrderedDict[bytes, _Success] = OrderedDict()

    def get(self, evidence: bytes, still_good: Callable[[_Success], bool]) -> _Success | None:
        """What this very evidence came to, if all else that the decision hung on is as it was; else it is forgotten."""
        key = hashlib.sha256(evidence).digest()
        known = self._known.get(key)
        if known is None:
            return None
        if not still_good(known):
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return known

    def put(self, evidence: bytes, success: _Success) -> None:
        """Remembers it."""
        self._known[hashlib.sha256(evidence).digest()] = success
        if len(self._known) > self._max_cached:
            self._known.popitem(last=False)
