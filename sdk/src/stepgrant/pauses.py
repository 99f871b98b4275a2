"""Pauses between tries: each twice as long as the one before, up to a bound, and not the same for all who wait."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import Final

from stepgrant.clock import Clock
from stepgrant.session import ANSWER_TIMEOUT

LINGER: Final = timedelta(seconds=5)
"""How long a task whose stream was lost is tried to be taken up again: no gateway keeps it longer."""
GIVE_UP: Final = LINGER + ANSWER_TIMEOUT
"""How long after a loss the task is over, also when nobody has answered the try that is under way: steps wait for it."""
TRY_TO_TAKE_UP: Final = timedelta(seconds=1)
"""Longest pause between two tries to take up a task whose stream was lost."""
TRY_TO_MOVE: Final = timedelta(seconds=30)
"""Longest pause between two tries to move a task to a newer identity: its old stream serves it meanwhile."""
FIRST: Final = timedelta(milliseconds=50)
_PARTS: Final = 1024


class Pauses:
    """One series of tries. The first pause takes 25 to 50 ms."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._span = FIRST
        self._over: asyncio.Future[None] | None = None

    async def next(self, at_most: timedelta) -> None:
        """Waits; the next time for longer, but never longer than `at_most`."""
        span = min(self._span, at_most)
        self._span = span * 2
        self._over = over = asyncio.get_running_loop().create_future()
        wait = span / 2 + span / 2 * (secrets.randbelow(_PARTS) / _PARTS)
        timer = self._clock.call_at(self._clock.monotonic() + wait, self.cut)
        try:
            await over
        finally:
            timer.cancel()

    def cut(self) -> None:
        """Ends the pause that is under way."""
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def begin_anew(self) -> None:
        """What was tried is something else now: at once, and then after short pauses again."""
        self._span = FIRST
        self.cut()
