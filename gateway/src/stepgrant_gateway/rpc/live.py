"""Calls that stay open: they end when the SVID they came with expires, when it no longer verifies, and at a drain."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.core.ports import Clock, Timer
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.rpc.caller import Caller, Evidence

_log = logging.getLogger(__name__)

DRAINING: Final = "draining"
"""The code that calls end with at a drain; what waits for them is said first."""

OnLost = Callable[[str, str], None]
"""Called once with a stable code and a reason, when the call must end."""


class LiveCall:
    """One open call; `leave` when it is over."""

    __slots__ = ("_calls", "_key", "caller", "on_lost", "timer")

    def __init__(self, calls: LiveCalls, key: int, caller: Caller, on_lost: OnLost) -> None:
        self._calls = calls
        self._key = key
        self.caller = caller
        self.on_lost = on_lost
        self.timer: Timer | None = None

    def leave(self) -> None:
        """The call is over; harmless twice."""
        self._calls.forget(self._key)


class LiveCalls:
    """All open streams of this gateway. gRPC never looks at a live connection again, so this does (facts, gRPC)."""

    def __init__(self, clock: Clock, verify: Callable[[Evidence], Peer]) -> None:
        self._clock = clock
        self._verify = verify
        self._calls: dict[int, LiveCall] = {}
        self._keys = itertools.count()

    def __len__(self) -> int:
        """Calls that are open."""
        return len(self._calls)

    def enter(self, caller: Caller, on_lost: OnLost) -> LiveCall:
        """Watches over a call until it leaves. It is lost as `identity_expired` when its SVID's time is up."""
        key = next(self._keys)
        call = LiveCall(self, key, caller, on_lost)
        self._calls[key] = call
        left = max(caller.peer.not_after - self._clock.now(), timedelta(0))
        call.timer = self._clock.call_at(self._clock.monotonic() + left, lambda: self._expire(key))
        return call

    def forget(self, key: int) -> None:
        """Watches no more over a call."""
        call = self._calls.pop(key, None)
        if call is not None and call.timer is not None:
            call.timer.cancel()

    def verify_again(self) -> int:
        """After a bundle changed: ends each call whose SVID does not verify any more; says how many."""
        lost = 0
        for key, call in list(self._calls.items()):
            try:
                peer = self._verify(call.caller.evidence)
            except InvalidInputError as error:
                lost += 1
                self._lose(key, "identity_lost", f"the SVID of this stream does not verify any more: {error}")
            except Exception:  # noqa: BLE001 - every other stream must be looked at all the same
                _log.exception("An SVID could not be verified again; its stream ends.")
                lost += 1
                self._lose(key, "identity_lost", "the SVID of this stream could not be verified again")
            else:
                if peer.spiffe_id != call.caller.peer.spiffe_id:
                    lost += 1
                    self._lose(key, "identity_lost", "the SVID of this stream stands for somebody else now")
        return lost

    def drain(self) -> None:
        """Ends all: the gateway stops."""
        for key in list(self._calls):
            self._lose(key, DRAINING, "this gateway stops; open the task again at another or when it is back")

    def _expire(self, key: int) -> None:
        self._lose(key, "identity_expired", "the SVID that this stream came with has expired; open the task again")

    def _lose(self, key: int, code: str, reason: str) -> None:
        call = self._calls.get(key)
        self.forget(key)
        if call is not None:
            call.on_lost(code, reason)
