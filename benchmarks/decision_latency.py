"""How long a decision takes, against grpcio alone: real processes, real mTLS, contestants in turns in one run.

    python benchmarks/decision_latency.py [--quick] [--policies 100000] [--json]

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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import many_policies
import streams
import whole_steps
from disk import recorded
from figures import Duel
from rig import Rig, running

MANY: Final = 10_000
"""Policies of the large set, unless told otherwise."""
IN_FLIGHT: Final = 16


@dataclass(frozen=True, slots=True)
class Effort:
    """How often: turns, and what each contestant does in one; `crowded` is of each of `IN_FLIGHT` workers."""

    turns: int
    steps: int
    crowded: int
    decisions: int


FULL: Final = Effort(turns=40, steps=50, crowded=12, decisions=200)
"""A task has at most 10,000 steps, so turns * crowded * IN_FLIGHT must stay below."""
QUICK: Final = Effort(turns=10, steps=20, crowded=4, decisions=60)


def main() -> int:
    """Measures, and prints a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a rougher picture in less than half a minute")
    parser.add_argument("--policies", type=int, default=MANY, help=f"size of the large policy set (default {MANY})")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="sg-") as directory:
        duels = asyncio.run(over_the_wire(Path(directory), effort))
    duels[f"decision_{arguments.policies}_policies"] = among(arguments.policies, effort)
    report = {
        "ratios": {name: round(duel.ratio, 3) for name, duel in duels.items()},
        "measured": {name: duel.summary() for name, duel in duels.items()},
        "machine": {
            "processors": os.cpu_count(),
            "load": [round(load, 2), round(os.getloadavg()[0], 2)],
            "python": platform.python_version(),
            "shared": "what else ran on this machine is in the figures; compare ratios, and their quartiles",
        },
    }
    print(json.dumps(report) if arguments.json else table(report))
    return 0


async def over_the_wire(directory: Path, effort: Effort) -> dict[str, Duel]:
    """What is measured between processes."""
    async with running(directory) as rig:
        return {
            "stream_p50": await on_streams(rig, effort.turns, effort.steps, workers=1),
            "stream_p50_recorded": await on_recorded_streams(rig, directory, effort),
            "stream_p50_16": await on_streams(rig, effort.turns, effort.crowded, workers=IN_FLIGHT),
            "step_p50": await on_whole_steps(rig, effort),
        }


async def on_streams(rig: Rig, turns: int, steps: int, *, workers: int) -> Duel:
    """`Declare` -> `Granted` against a bare stream, `workers` in flight."""
    async with streams.contestants(rig) as (ours, theirs):
        return await duel(ours, theirs, turns=turns, steps=steps, workers=workers)


async def on_recorded_streams(rig: Rig, directory: Path, effort: Effort) -> Duel:
    """`Declare` -> `Granted` against a bare stream and one durable commit: what is ours, whatever the disk does."""
    async with streams.contestants(rig) as (ours, bare):
        with recorded(bare, directory) as theirs:
            return await duel(ours, theirs, turns=effort.turns, steps=effort.steps, workers=1)


async def on_whole_steps(rig: Rig, effort: Effort) -> Duel:
    """Declare, redeemed call and report against the bare call."""
    async with whole_steps.contestants(rig) as (ours, theirs):
        return await duel(ours, theirs, turns=effort.turns, steps=effort.steps // 2, workers=1)


async def duel(ours: streams.Contestant, theirs: streams.Contestant, *, turns: int, steps: int, workers: int) -> Duel:
    """Turns of both, each beginning every other one."""
    result = Duel()
    for turn in range(turns):
        order = ((ours, result.ours), (theirs, result.theirs))
        for contestant, times in order if turn % 2 else reversed(order):
            times.append(await one_turn(contestant, steps, workers))
    return result


async def one_turn(contestant: streams.Contestant, steps: int, workers: int) -> list[float]:
    """The seconds of each step."""

    async def work() -> list[float]:
        return [await contestant.step() for _ in range(steps)]

    done = await asyncio.gather(*(work() for _ in range(workers)))
    return [seconds for times in done for seconds in times]


def among(policies: int, effort: Effort) -> Duel:
    """One decision among `policies` against one among `many_policies.FEW`."""
    few, many = many_policies.policy_of(many_policies.FEW), many_policies.policy_of(policies)
    return many_policies.duel(few, many, turns=effort.turns, decisions=effort.decisions)


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
    machine = report["machine"]
    load = " and ".join(str(value) for value in machine["load"])
    lines.append(f"{machine['processors']} processors, load {load} before and after: {machine['shared']}.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
