"""`stepgrant doctor`: what stands between this program and a grant, each with what to type."""

from __future__ import annotations

import os
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
    if as_json:
        print_json({"ok": not _failures(checks), "checks": [_document(check) for check in checks]})
    status = next(iter(_failures(checks)), Exit.OK)
    if status is not Exit.OK:
        raise typer.Exit(status)


def _failures(checks: list[Check]) -> list[Exit]:
    return [check.exit for check in checks if check.exit is not Exit.OK]


def _say(check: Check) -> None:
    """For a terminal in lines that fit; for a pipe one line a text, so that it can be searched."""
    head, arrow = f"{check.state.value:<8} {check.name:<22} ", f"{'':<31} -> "
    width = min(shutil.get_terminal_size().columns, WIDTH) if sys.stdout.isatty() else None
    print_line(_fitted(head, check.says, width))
    if check.todo:
        print_line(_fitted(arrow, check.todo, width))


def _fitted(head: str, text: str, width: int | None) -> str:
    if width is None:
        return head + text
    rest = " " * len(head)
    return textwrap.fill(head + text, width, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)


def _document(check: Check) -> dict[str, str]:
    document = asdict(check)
    del document["exit"]
    return {**document, "state": check.state.value}


def _now() -> datetime:
    return datetime.now(UTC)
