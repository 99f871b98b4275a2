"""What a process says of itself while it works: how late its event loop is, and what it keeps in memory."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lines import Lines

EVERY_SECONDS: Final = 0.02
"""Between two looks at the event loop."""
OURS: Final = ("stepgrant", "grpc", "asyncio", "_asyncio")
"""First parts of the modules whose objects are counted."""
COMMONEST: Final = 25


class Lag:
    """How much later than asked the event loop of this process comes back, since it was taken last."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks from now on."""
        self._task = asyncio.create_task(self._look())

    def take(self) -> dict[str, float]:
        """Milliseconds at the 50th and 99th percentile and at most; begins anew."""
        late, self._late = sorted(self._late) or [0.0], []
        marks = {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1]}
        return {name: round(value * 1e3, 2) for name, value in marks.items()}

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            self._late.append(max(loop.time() - due, 0.0))


def census() -> dict[str, int]:
    """Live objects by type, the commonest. It stops the process for as long as that takes."""
    kinds = Counter(map(type, gc.get_objects()))
    # Of a class that has `__module__` for its instances, it is no text.
    ours = {kind: count for kind, count in kinds.items() if str(kind.__module__).partition(".")[0] in OURS}
    counted = Counter({f"{kind.__module__.split('.')[-1]}.{kind.__qualname__}": count for kind, count in ours.items()})
    return dict(counted.most_common(COMMONEST))


def answer(lines: Lines, lag: Lag, asked: Mapping[str, Any]) -> None:
    """Says both, the census if it is asked for."""
    lines.say({"lag_ms": lag.take(), "census": census() if asked["census"] else {}})
    lag.take()  # The census was ours, and is no lag of the program.


def vitals(pid: int) -> dict[str, Any]:
    """Resident memory in KiB, what of it is no file's, open descriptors and threads of any process; Linux only."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "anonymous_kib": int(status["RssAnon"].split()[0]),
        "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": int(status["Threads"]),
    }
