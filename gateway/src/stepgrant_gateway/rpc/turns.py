"""Whose request is worked on next: an equal share for each identity that is at it (design 6, Load).

A gateway has one event loop. Without turns, an identity that sends a hundred requests at once has a hundred of them in
front of everybody else's next one, all of them within its rate.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from datetime import timedelta

from stepgrant_gateway.core.ports import Clock
from stepgrant_gateway.rpc.limits import AT_ONCE, AT_WORK


class Turns:
    """At most `AT_ONCE` requests of one identity are worked on, divided by how many identities were at it lately.

    The rest wait, in order and in nobody's way. Belongs to one gateway and its loop.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, timedelta] = OrderedDict()
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def begin(self, identity: str) -> asyncio.Future[None] | None:
        """None: a turn of this identity has begun. Else it has once this is done. Either way `leave` ends it."""
        self._see(identity)
        if self._busy.get(identity, 0) < self._share():
            self._busy[identity] = self._busy.get(identity, 0) + 1
            return None
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(identity, deque()).append(turn)
        return turn

    def leave(self, identity: str) -> None:
        """A turn is over."""
        self._busy[identity] -= 1
        waiting = self._waiting.get(identity, deque())
        while waiting and self._busy[identity] < self._share():
            turn = waiting.popleft()
            if not turn.done():
                self._busy[identity] += 1
                turn.set_result(None)
        if not waiting:
            self._waiting.pop(identity, None)
            if not self._busy[identity]:
                del self._busy[identity]

    def _share(self) -> int:
        return max(1, AT_ONCE // len(self._seen))

    def _see(self, identity: str) -> None:
        now = self._clock.monotonic()
        self._seen[identity] = now
        self._seen.move_to_end(identity)
        while next(iter(self._seen.values())) < now - AT_WORK:
            self._seen.popitem(last=False)
