"""How long decisions and ends take, and what else costs: real processes, real mTLS, contestants in turns in one run.

    python benchmarks/decision_latency.py [--quick] [--only decisions,refusals] [--json] [--chart FILE.svg]

Ratios are what to look at, and their quartiles over the turns; the figures are of one machine and of what else it did.
The ledger is SQLite with full sync in the temporary directory (TMPDIR): keep it on the kind of disk that you mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import chart
import fairness
import idle_streams
import many_policies
import refusals
import streams
import verified
import whole_steps
from disk import sync_us
from duels import duel
from effort import FULL, IN_FLIGHT, QUICK, Effort
from figures import Duel, Findings
from rig import Rig, running
from wakes import late_us


def main() -> int:
    """Measures, and prints a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a rougher picture in a minute or two")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draws it as well")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="sg-") as directory:
        synced, late = sync_us(Path(directory)), late_us()
        found = asyncio.run(measured(Path(directory), chosen, QUICK if arguments.quick else FULL))
    report = {
        **found.document(),
        "machine": {
            "processors": os.cpu_count(),
            "load": [round(load, 2), round(os.getloadavg()[0], 2)],
            "sync_us": synced,
            "wakes_late_us": [late, late_us()],
            "python": platform.python_version(),
            "shared": "what else ran on this machine is in the figures; compare ratios, and their quartiles",
        },
    }
    if arguments.chart:
        arguments.chart.write_text(chart.run(report))
    print(json.dumps(report) if arguments.json else table(report))
    return 0


async def measured(directory: Path, parts: list[str], effort: Effort) -> Findings:
    """What these parts find, each in a directory of its own."""
    found = Findings()
    for name in parts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found.add(await PARTS[name](directory / name, effort))
    return found


async def decisions(directory: Path, effort: Effort) -> Findings:
    """Streams and whole steps against bare ones."""
    async with running(directory) as rig, rig.guarded() as orders, rig.echo() as bare:
        echo = bare.said["listening"]
        duels = {
            "stream_p50": await on_streams(rig, echo, effort.turns, effort.steps, workers=1),
            "floor_p50": await under_streams(rig, echo, effort),
            "stream_p50_16": await on_streams(rig, echo, effort.turns, effort.crowded, workers=IN_FLIGHT),
            "step_p50": await on_whole_steps(rig, orders.said["listening"], echo, effort),
        }
    return Findings(duels=duels)


async def on_streams(rig: Rig, echo: str, turns: int, steps: int, *, workers: int) -> Duel:
    """`Declare` -> `Granted` against a bare stream, `workers` in flight."""
    async with streams.contestants(rig, echo) as (ours, theirs):
        return await duel(ours, theirs, turns=turns, steps=steps, workers=workers)


async def under_streams(rig: Rig, echo: str, effort: Effort) -> Duel:
    """What Cedar, a signature and a commit take at least (`echo.Floor`), against the bare stream."""
    async with streams.contestants(rig, echo) as (ours, bare), streams.floor(rig, echo, ours.sizes) as floor:
        return await duel(floor, bare, turns=effort.turns, steps=effort.steps, workers=1)


async def on_whole_steps(rig: Rig, orders: str, echo: str, effort: Effort) -> Duel:
    """Declare, redeemed call and report against the bare call."""
    async with whole_steps.contestants(rig, orders, echo) as (ours, theirs):
        return await duel(ours, theirs, turns=effort.turns, steps=effort.steps // 2, workers=1)


def table(report: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [f"{'':28}{'ratio':>7}  {'quartiles':15}{'ours p50':>11}{'p99':>9}{'theirs p50':>13}{'p99':>9}   (us)"]
    for name, one in report["measured"].items():
        low, high = one["ratio_quartiles"]
        ours, theirs = one["ours_us"], one["theirs_us"]
        lines.append(
            f"{name:28}{one['ratio']:7.2f}  {f'{low:.2f} .. {high:.2f}':15}"
            f"{ours['p50']:11}{ours['p99']:9}{theirs['p50']:13}{theirs['p99']:9}"
        )
    if report["spans_us"]:
        lines.append(f"\n{'':28}{'p50':>7}{'p99':>9}{'max':>9}{'samples':>9}   (us)")
    for name, one in report["spans_us"].items():
        lines.append(f"{name:28}{one['p50']:7}{one['p99']:9}{one['max']:9}{one['samples']:9}")
    alone = {name: ratio for name, ratio in report["ratios"].items() if name not in report["measured"]}
    lines += [f"{name:28}{ratio:7.2f}" for name, ratio in alone.items()]
    lines += [f"{name:28}{value:10}" for name, value in report["counts"].items()]
    machine = report["machine"]
    load = " and ".join(str(value) for value in machine["load"])
    late = " and ".join(f"{one['p50']} (p99 {one['p99']})" for one in machine["wakes_late_us"])
    lines.append(
        f"{machine['processors']} processors, load {load} before and after, {machine['sync_us']} us a sync. Who slept wakes"
        f" {late} us late, before and after, with nothing of ours running: {machine['shared']}."
    )
    return "\n".join(lines)


PARTS: Final[Mapping[str, Callable[[Path, Effort], Awaitable[Findings]]]] = {
    "decisions": decisions,
    "refusals": refusals.measure,
    "policies": many_policies.measure,
    "idle": idle_streams.measure,
    "fairness": fairness.measure,
    "identity": verified.measure,
}


if __name__ == "__main__":
    sys.exit(main())
