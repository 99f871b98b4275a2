"""Asking again when a gateway has too much to do: not before it says, not all at once, and not for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from stepgrant.errors import Denial, DenialCode, GatewayUnavailableError

TRIES: Final = 5
"""Times that one request is asked at most."""
LONGEST_WAIT: Final = timedelta(seconds=2)
"""In all, for one request. Who is told to come back later hears so at once: a program may know better what to do."""
BACK_OFF: Final = timedelta(milliseconds=10)
"""Added to what the gateway says before the second try, and doubled for each further one."""


class Patience:
    """What is left of it for one request."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        """`jitter`: a number from 0 to 1, so that those who are refused together do not come back together."""
        self._jitter = jitter
        self._tried = 1
        self._left = LONGEST_WAIT

    async def waits(self, answer: object) -> bool:
        """True, after a while, if the request may be asked again: `answer` says `overloaded`, and when to come back."""
        said = _retry_after(answer)
        if said is None or said > self._left or self._tried >= TRIES:
            return False
        span = min((said + BACK_OFF * 2 ** (self._tried - 1)) * (1 + self._jitter()), max(self._left, said))
        self._tried += 1
        self._left -= span
        await asyncio.sleep(span.total_seconds())
        return True


def _retry_after(answer: object) -> timedelta | None:
    if isinstance(answer, GatewayUnavailableError):
        return answer.retry_after
    if isinstance(answer, Denial) and answer.code is DenialCode.OVERLOADED:
        return answer.retry_after
    return None
