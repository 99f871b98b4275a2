"""Where the microseconds of one decision go, from `Declare` to `Granted` as the client sees it.

    python benchmarks/decision_parts.py [--steps 2000] [--report docs/decision.json]

Draws FILE.svg beside FILE.json. One in flight; medians of each part, so that their sum is near the whole, not equal to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import chart
import streams
from rig import running

TIMED: Final = (sys.executable, "-u", str(Path(__file__).with_name("timed.py")))
TURN: Final = 25
"""Steps of one contestant before the other has its turn."""
WARM_UP: Final = 400
"""Until the log of SQLite has its size, and no longer grows with each commit."""


def main() -> int:
    """Measures, prints, and writes the report if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--report", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sg-") as directory:
        found = asyncio.run(measured(Path(directory) / "parts", arguments.steps))
    if arguments.report:
        arguments.report.write_text(json.dumps(found, indent=1) + "\n")
        arguments.report.with_suffix(".svg").write_text(chart.decision(found))
    for part in found["parts"]:
        print(f"{part['us']:9.1f}  {part['name']}")
    print(f"{found['total_us']:9.1f}  as the client sees it; an echo of the same sizes: {found['echo_us']}")
    return 0


async def measured(directory: Path, steps: int) -> dict[str, Any]:
    """The parts, in order; the echo's whole time stands for what gRPC, TLS and the client take."""
    ours: list[float] = []
    theirs: list[float] = []
    async with (
        running(directory, serve=TIMED) as rig,
        rig.guarded(),
        rig.echo() as bare,
        streams.contestants(rig, bare.said["listening"]) as (gateway, echo),
    ):
        for _ in range(WARM_UP):
            await gateway.step()
        await rig.server.ask({})
        while len(ours) < steps:
            ours += [await gateway.step() for _ in range(TURN)]
            theirs += [await echo.step() for _ in range(TURN)]
        parts = (await rig.server.ask({}))["parts"]
    echo_us = round(statistics.median(theirs) * 1e6, 1)
    transport = {"name": "gRPC, TLS, both processes: an echo", "us": echo_us}
    return {
        "parts": [transport, *parts],
        "total_us": round(statistics.median(ours) * 1e6, 1),
        "echo_us": echo_us,
        "steps": len(ours),
        "load": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
