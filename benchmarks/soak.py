"""An hour at half load: does anything grow?

    python benchmarks/soak.py [MINUTES] [--report docs/soak.md]

Measures how much mixed work (`work`) this machine does at most, does half of that for so many minutes, samples gateway and
resource every ten seconds, verifies the ledger at the end, and writes FILE.md with FILE.json and FILE.svg beside it.
The ledger is in the temporary directory (TMPDIR): about a gigabyte an hour. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import soak_report
from figures import spread
from observing import vitals
from rig import STEPGRANT, Rig, running
from work import IDENTITIES, Book, Pace, work

MINUTES: Final = 60.0
AT_MOST_SECONDS: Final = 30.0
"""Of work without a pace, which says how much the machine does; the first quarter does not count."""
SHARE: Final = 0.5
SAMPLE_SECONDS: Final = 10.0
CENSUS_EVERY: Final = 6
"""Samples: a census stops its process for some hundredths of a second."""


def main() -> int:
    """Runs, reports; 1 if the ledger does not verify or work failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", nargs="?", type=float, default=MINUTES)
    parser.add_argument(
        "--report", type=Path, default=Path("soak.md"), help="the report; its data and chart go beside it"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sg-") as directory:
        document = asyncio.run(soak(Path(directory) / "soak", arguments.minutes))
    soak_report.write(document, arguments.report)
    print(soak_report.summary(document))
    return 0 if document["ledger"]["verified"] and not document["failures"] else 1


async def soak(directory: Path, minutes: float) -> dict[str, Any]:
    """Everything that was seen, as JSON has it."""
    serve = (sys.executable, "-u", str(Path(__file__).with_name("observed.py")))
    begun, load = datetime.now(UTC), os.getloadavg()
    async with running(directory, agents=IDENTITIES, serve=serve) as rig, rig.guarded() as orders:
        listening = orders.said["listening"]
        book = Book()
        async with working(rig, listening, Pace(None), book):
            await asyncio.sleep(AT_MOST_SECONDS / 4)
            book.take()
            await asyncio.sleep(AT_MOST_SECONDS * 3 / 4)
            at_most = sum(book.take().rounds.values()) / (AT_MOST_SECONDS * 3 / 4)
        print(
            f"{at_most:.1f} rounds/s at most; {minutes:g} minutes at {at_most * SHARE:.1f}", file=sys.stderr, flush=True
        )
        book.take()
        async with working(rig, listening, Pace(at_most * SHARE), book):
            samples, failures = await sampled(rig, orders, book, minutes)
        size = sum(file.stat().st_size for file in rig.directory.glob("ledger.db*"))
        await rig.server.stop()
        verified = verify(rig.directory / "ledger.db")
    return {
        "begun": begun.isoformat(timespec="seconds"),
        "minutes": minutes,
        "most_rounds_per_second": round(at_most, 1),
        "rounds_per_second": round(at_most * SHARE, 1),
        "failures": failures,
        "ledger": {**verified, "bytes": size},
        "machine": {
            "processors": os.cpu_count(),
            "load": [round(load[0], 2), round(os.getloadavg()[0], 2)],
            "python": platform.python_version(),
        },
        "samples": samples,
    }


@asynccontextmanager
async def working(rig: Rig, listening: str, pace: Pace, book: Book) -> AsyncIterator[None]:
    """Work goes on for as long as the block runs."""
    task = asyncio.create_task(work(rig, listening, pace, book))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def sampled(rig: Rig, orders: Any, book: Book, minutes: float) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A sample every ten seconds, and all that failed."""
    samples: list[dict[str, Any]] = []
    failures: Counter[str] = Counter()
    begun = time.monotonic()
    while (past := time.monotonic() - begun) < minutes * 60:
        due = begun + (len(samples) + 1) * SAMPLE_SECONDS
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        done = book.take()
        failures += done.failures
        asked = {"census": len(samples) % CENSUS_EVERY == 0}
        sample: dict[str, Any] = {"second": round(time.monotonic() - begun, 1), "rounds": dict(done.rounds)}
        sample["round_us"] = spread(done.seconds or [0.0])
        sample["ledger_bytes"] = sum(file.stat().st_size for file in rig.directory.glob("ledger.db*"))
        for name, process in (("gateway", rig.server), ("resource", orders)):
            sample[name] = vitals(process.pid) | await process.ask(asked)
        samples.append(sample)
        print(f"{past / 60:.1f} min {soak_report.line(sample)}", file=sys.stderr, flush=True)
    return samples, dict(failures.most_common(20))


def verify(ledger: Path) -> dict[str, Any]:
    """What `stepgrant audit verify` says of it."""
    begun = time.monotonic()
    done = subprocess.run(
        (STEPGRANT, "audit", "verify", str(ledger), "--json"), capture_output=True, text=True, check=False
    )
    said = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return {"verified": done.returncode == 0, "said": said[-4000:], "seconds": round(time.monotonic() - begun, 1)}


if __name__ == "__main__":
    sys.exit(main())
