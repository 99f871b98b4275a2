"""How late this machine wakes who sleeps: no p99 that is measured on it can be shorter than its own."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from figures import p99

SLEEPS: Final = 500
SLEEP_SECONDS: Final = 0.001


def late_us() -> dict[str, int]:
    """`p50` and `p99` of how long after its time a thread ran that had slept for a millisecond, in half a second or more.

    A few dozen with a free processor. What runs beside it adds to that, also on other machines of the same host.
    """
    late = []
    for _ in range(SLEEPS):
        due = time.perf_counter() + SLEEP_SECONDS
        time.sleep(SLEEP_SECONDS)
        late.append(time.perf_counter() - due)
    return {"p50": round(median(late) * 1e6), "p99": round(p99(late) * 1e6)}
