"""`stepgrant doctor`: what stands between this program and a grant, each with what to type."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepgrant_gateway.cli.exits import Exit, reported
from stepgrant_gateway.cli.output import WIDTH, AsJson, print_json, print_line

if TYPE_CHECKING:
    from stepgrant_gateway.cli.checks import Check


@reported
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="gateway.toml: look at this installation as well.")
    ] = None,
    audience: Annotated[
        str, typer.Option(help="An audience that this workload verifies grants for: compares the clocks.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Looks at variables, identity, gateway and clock, and with --config at a gateway's files; says what to type."""
    from stepgrant_gateway.cli.installation import inspect
    from stepgrant_gateway.cli.logs import keep_quiet
    from stepgrant_gateway.cli.surroundings import examine

    keep_quiet()
    checks: list[Check] = []
    for source in (
        inspect(config, os.environ, _now) if config is not None else iter(()),
        examine(os.environ, _now, audience=audience, required=config is None),
    ):
        for check in source:
            checks.append(check)
            if not as_json:
                _say(check)
    if not as_json:
        print_line(_sum(checks))
    else:
        print_json({"ok": not _failures(checks), "checks": [_document(check) for check in checks]})
    status = next(iter(_failures(checks)), Exit.OK)
    if status is not Exit.OK:
        raise typer.Exit(status)


def _failures(checks: list[Check]) -> list[Exit]:
    return [check.exit for check in checks if check.exit is not Exit.OK]


def _say(check: Check) -> None:
    """For a terminal in lines that fit; for a pipe one line a text, so that it can be searched. Commands are never broken."""
    head, arrow = f"{check.state.value:<8} {check.name:<22} ", f"{'':<8} -> "
    width = min(shutil.get_terminal_size().columns, WIDTH) if sys.stdout.isatty() else None
    print_line(_fitted(head, check.says, width))
    if check.todo:
        print_line(_fitted(arrow, check.todo + (":" if check.command else ""), width))
    for line in check.command.splitlines():
        print_line(f"    {line}")


def _sum(checks: list[Check]) -> str:
    """The last line: how many are not well, and where to begin."""
    from stepgrant_gateway.cli.checks import State

    bad, doubts = (sum(check.state is state for check in checks) for state in (State.FAILED, State.WARNING))
    well = f"{len(checks) - bad - doubts} of {len(checks)} are well"
    if bad:
        return f"{well}, {bad} failed: begin with the first of them, others may follow from it."
    return f"{well}, {doubts} should be looked at." if doubts else f"All {len(checks)} are well."


def _fitted(head: str, text: str, width: int | None) -> str:
    if width is None:
        return head + text
    # A number and its unit stay together, and so does what is to be typed.
    kept = re.sub(r"`[^`]*`|\d (?:d|h|min|s|GiB)\b", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    rest = " " * len(head)
    filled = textwrap.fill(head + kept, width, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\N{NO-BREAK SPACE}", " ")


def _document(check: Check) -> dict[str, str]:
    document = asdict(check)
    del document["exit"]
    return {**document, "state": check.state.value}


def _now() -> datetime:
    return datetime.now(UTC)
