"""How long a gateway takes to know its state again: from a snapshot that the chain names, and from the first record on.

    python benchmarks/ledger_start.py [--events 1000000] [--json]

The ledger is written by the gateway's own writer; then a gateway that had to fold all of it leaves its snapshot, and as many
events as lie between two snapshots follow, as if it had been killed just before the next one. What is timed is all that a
start does with the ledger: opening it, folding it, and making the first event of the next chain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from grown_ledger import grow

from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant_gateway.app.folding import Folded, fold_ledger
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.app.snapshots import Snapshots
from stepgrant_gateway.app.writing import ChainWriter
from stepgrant_gateway.storage.inputs import DigestSealer
from stepgrant_gateway.storage.settings import LedgerSettings
from stepgrant_gateway.storage.snapshots import SnapshotFiles
from stepgrant_gateway.storage.sqlite import SqliteLedger
from stepgrant_gateway.system import SystemClock, system_entropy

EVENTS: Final = 1_000_000
LIVES: Final = 20
STARTS: Final = 3
"""Starts from the snapshot, of which the median counts; one from the first record on is enough."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds by the clock on the wall and of this process, and events that it had to read."""

    wall: float
    process: float
    followed: int


def main() -> int:
    """Measures, and prints a few lines or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=EVENTS, help=f"events of the ledger (default {EVENTS})")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sg-") as directory:
        measured = measure(Path(directory) / "ledger.db", arguments.events)
    if arguments.json:
        print(json.dumps(measured))
        return 0
    for name in ("from_snapshot", "from_the_first_record"):
        start = measured[name]
        print(
            f"{name:22} {start['seconds']:8.2f} s ({start['process_seconds']:.2f} s of CPU), {start['events_read']} events read"
        )
    print(f"ratio {measured['ratios']['ledger_start']}; snapshot of {measured['snapshot_bytes']} bytes")
    return 0


def measure(path: Path, events: int) -> dict[str, Any]:
    """Grows the ledger, and times starts on it."""
    every = LedgerSettings().snapshot_every
    last = grow(path, events - every, LIVES)
    asyncio.run(_leave_snapshot(path))
    grow(path, every, 1, begin=max(last, datetime.now(UTC)))
    files = SnapshotFiles(path)
    resumed = sorted((_start(path, files) for _ in range(STARTS)), key=lambda start: start.wall)[STARTS // 2]
    whole = _start(path, None)
    if resumed.followed >= 2 * every:
        raise RuntimeError("the snapshot was not believed: this measures something else")
    return {
        "events": whole.followed,
        "snapshot_bytes": len(next(files.kept())),
        "from_snapshot": _shown(resumed),
        "from_the_first_record": _shown(whole),
        "ratios": {"ledger_start": round(resumed.wall / whole.wall, 4)},
    }


async def _leave_snapshot(path: Path) -> None:
    clock = SystemClock()
    with closing(SqliteLedger(path)) as store:
        snapshots = Snapshots(SnapshotFiles(path), fold_ledger(store), every=1)
        instance = ulid(clock.now(), system_entropy(ULID_RANDOM_BYTES))
        recorder = Recorder(store, DigestSealer(system_entropy), clock, instance, followed=snapshots.follow)
        await recorder.start()
        snapshots.begin(recorder, clock)
        await snapshots.close()
        await recorder.close()


def _start(path: Path, files: SnapshotFiles | None) -> Start:
    clock = SystemClock()
    wall, process = time.perf_counter(), time.process_time()
    with closing(SqliteLedger(path)) as store:
        folded: Folded = fold_ledger(store, files.kept() if files is not None else ())
        writer = ChainWriter(store, DigestSealer(system_entropy), ulid(clock.now(), system_entropy(ULID_RANDOM_BYTES)))
        writer.started(clock.now(), {})
        return Start(time.perf_counter() - wall, time.process_time() - process, folded.followed)


def _shown(start: Start) -> dict[str, Any]:
    return {
        "seconds": round(start.wall, 3), "process_seconds": round(start.process, 3), "events_read": start.followed,
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
