"""What came out, in lines: 100 columns, colours only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.console import Console
from rich.text import Text
from scenes import Shown

WIDTH: Final = 100
INDENT: Final = 5
WORKLOADS: Final = "spiffe://dev.stepgrant.test/"
COLOURS: Final = {"opened": "cyan", "granted": "green", "used": "green", "closed": "cyan"}


def console() -> Console:
    """Where the report goes."""
    return Console(width=WIDTH, highlight=False, markup=False, color_system="auto" if sys.stdout.isatty() else None)


def processes(out: Console, running: Sequence[tuple[str, str, int, str]]) -> None:
    """Who is there."""
    for name, identity, pid, what in running:
        out.print(Text(f"  {name:<14}{identity:<20}pid {pid:<9}{what}"))


def task(out: Console, events: Sequence[Mapping[str, Any]]) -> None:
    """A task as the ledger has it: time, step, decision, why, remaining life."""
    out.print(Text(f"  {'TIME':<14}{'STEP':<18}{'DECISION':<11}{'WHY':<46}{'LIFE':>9}", style="dim"))
    tools, ends = _steps(events)
    for at, step, decision, why, until in sorted(_rows(events, tools, ends), key=lambda row: row[0]):
        life = "" if until is None else "dead" if until <= at else _span(until - at)
        line = Text(f"  {at:%H:%M:%S}.{at.microsecond // 1000:03}  {step:<18}")
        line.append(f"{decision:<11}", COLOURS.get(decision, "dim")).append(f"{why:<46}{life:>9}".rstrip())
        out.print(line)


def scene(out: Console, number: int, what: str, shown: Shown) -> None:
    """One scene: what was tried, and in whose words it failed."""
    line = Text(f"{number:>3}  {datetime.now(UTC):%H:%M:%S}  ")
    line.append(f"{'ok' if shown.right else 'WRONG':<7}", "green" if shown.right else "bold red")
    out.print(line.append(what.rstrip("."), "bold"))
    for told in shown.told:
        if told.right and told.code == "accepted":
            continue  # What works is the note's business.
        line = Text(f"{told.who} ", "cyan")
        line.append("accepted" if told.code == "accepted" else f"{told.error}: ", "yellow").append(told.text, "none")
        if not told.right:
            line.append(f" (expected {told.wanted}, got {told.code})", "bold red")
        _indented(out, line)
    if shown.note:
        _indented(out, Text(shown.note, "dim"))


def _indented(out: Console, text: Text) -> None:
    """Wrapped, and without spaces at the end of a line."""
    for line in text.wrap(out, WIDTH - INDENT):
        line.rstrip()
        out.print(Text(" " * INDENT).append_text(line))


def ledger(out: Console, audit: Mapping[str, Any]) -> None:
    """What the ledger says at the end."""
    head = audit["chains"][0]["head"]
    denials = ", ".join(f"{count} {code}" for code, count in audit["denials"].items())
    ends = ", ".join(f"{count} {state}" for state, count in audit["ends"].items())
    for name, what in (
        ("chain", f"verified: {audit['events']} events, head {head[:16]}..."),
        ("tasks", f"{audit['tasks']} opened, {audit['tasks_denied']} denied"),
        ("steps", f"{audit['steps_granted']} granted, {audit['steps_denied']} denied; ended: {ends}"),
        (
            "grants",
            f"{audit['grants']} given, {audit['redemptions']} uses redeemed; {audit['grant_seconds']:.1f} grant-seconds held",
        ),
        ("denials", f"{denials}; locks set: {audit['locks']}"),
    ):
        out.print(Text(f"  {name:<9}", "dim").append(what, "none"))


def _steps(events: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], dict[str, datetime]]:
    """By step id: what to call it, and until when its grant is good."""
    names, ends = {}, {}
    for event in events:
        if event["type"] == "step.granted":
            data = event["data"]
            names[data["step"]] = ("  " if data["parent"] else "") + data["tool"]
            ends[data["step"]] = _time(data["exp_ms"])
    return names, ends


def _rows(
    events: Sequence[Mapping[str, Any]], names: Mapping[str, str], ends: Mapping[str, datetime]
) -> list[tuple[datetime, str, str, str, datetime | None]]:
    rows: list[tuple[datetime, str, str, str, datetime | None]] = []
    for event in events:
        at, data, kind = datetime.fromisoformat(event["at"]), event["data"], event["type"]
        step = data.get("step", "")
        name, until = names.get(step, ""), ends.get(step)
        if kind == "task.opened":
            rows.append((at, f"task {data['task_type']}", "opened", data["policies"][0], _time(data["expires_ms"])))
        elif kind == "step.granted":
            permit = data["policies"][0]
            rows.append((_made(step), name, "declared", data["target"], None))
            rows.append((at, name, "granted", f"{permit['id']} ({permit['file']}:{permit['line']})", until))
        elif kind == "grant.redeemed":
            rows.append((at, name, "used", f"at {data['by'].removeprefix(WORKLOADS)}", until))
        elif kind == "step.ended":
            rows.append((at, name, "ended", data["code"], at))
        elif kind == "task.closed":
            rows.append((at, "task Refund", "closed", data["reason"].rstrip("."), at))
    return rows


_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _made(step_id: str) -> datetime:
    """When the agent made the step's id, just before it declared: a ULID begins with its time."""
    milliseconds = 0
    for letter in step_id[:10]:
        milliseconds = milliseconds * 32 + _CROCKFORD.index(letter)
    return _time(milliseconds)


def _time(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


def _span(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.1f} s"
