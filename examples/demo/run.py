"""`make demo`: the product doing its job, as separate processes on loopback. Exit status 0 only if each scene came out as it must."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import report
from processes import ChildError
from rich.text import Text
from scenes import SCENES
from world import World

INTERRUPTED: Final = 130


def main() -> int:
    """The whole run; the children's logs stay if it did not come out well."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Short, since the paths of Unix sockets are.
    directory = Path(tempfile.mkdtemp(prefix="stepgrant-demo-"))
    status = 1
    try:
        status = demonstrate(directory)
    except ChildError as error:
        print(f"\nThe demo broke: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted; every process of the demo has been ended.", file=sys.stderr)
        status = INTERRUPTED
    if status == 1:
        print(f"The logs of all processes are in {directory}", file=sys.stderr)
    else:
        shutil.rmtree(directory)
    return status


def demonstrate(directory: Path) -> int:
    """Starts everything, shows it, ends it."""
    out, begun, wrong = report.console(), time.monotonic(), 0
    with World(directory) as world:
        heading(out, f"Stepgrant: separate processes on loopback, ready after {time.monotonic() - begun:.1f} s")
        report.processes(out, world.processes)
        heading(out, "A refund, as the ledger has it: each step is declared, granted, used, and dead with its end")
        job = world.agent.ask({"scene": "job"})
        if "task" in job:
            report.task(out, world.events(job["task"]))
        else:
            wrong += 1
            out.print(Text(f"  The refund did not come out: {job['error']} {job['text']}", "bold red"))
        heading(out, "What must not work, and what the one who tries it is told")
        out.print(
            Text("  The thief shows stolen grants with the agent's own certificate and key, but for 6 and 7.", "dim")
        )
        for number, play in enumerate(SCENES, start=1):
            shown = play(world)
            report.scene(out, number, play.__doc__ or "", shown)
            wrong += not shown.right
        audit = world.close_and_audit()
    heading(out, "What the ledger says (stepgrant audit verify)")
    report.ledger(out, audit)
    for finding in unlikely(audit):
        wrong += 1
        out.print(Text(f"  WRONG: {finding}", "bold red"))
    came = f"{wrong} did not come out as they must" if wrong else "Everything came out as it must"
    heading(out, f"{came}, in {time.monotonic() - begun:.0f} s.")
    return 1 if wrong else 0


def unlikely(audit: Mapping[str, Any]) -> list[str]:
    """What of the ledger's figures is not as the scenes make them."""
    expected = {
        "ok": True,
        "tasks_denied": 1,
        "steps_granted": 15,
        "steps_denied": 2,
        "denials": {"no_permit": 3},
        "redemptions": 7,
        "ends": {"abandoned": 1, "completed": 11, "expired": 1, "revoked": 2},
        "locks": 1,
    }
    found = [f"{name} is {audit[name]}, expected {value}" for name, value in expected.items() if audit[name] != value]
    if not all(chain["stopped"] for chain in audit["chains"]):
        found.append("the chain does not end with the gateway's own stop")
    if audit["grants"] <= audit["steps_granted"]:
        found.append("the renewal is not in the ledger")
    return found


def heading(out: Any, text: str) -> None:
    """A line to find one's way by."""
    out.print()
    out.print(Text(text, "bold"))


if __name__ == "__main__":
    sys.exit(main())
