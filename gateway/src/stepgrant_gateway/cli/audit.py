"""`stepgrant audit`: what the ledger says, verified before it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stepgrant_gateway.cli.exits import EPILOG, reported
from stepgrant_gateway.cli.output import AsJson, print_json, print_line

if TYPE_CHECKING:
    from stepgrant_gateway.core.ledger import StoredEvent
    from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

program = typer.Typer(help="The ledger.", no_args_is_help=True)

Ledger = Annotated[
    Path, typer.Argument(help="Ledger file of a gateway; it may be running.", exists=True, dir_okay=False)
]
_FIRST: Final = ("task", "assignment", "dispatcher", "step", "tool", "code", "reason", "trust_domain", "issuer", "of",
                 "sequence", "keys", "added", "removed", "between")  # fmt: skip
"""What of an event's data is worth a person's first look, in this order."""
_DIGEST: Final = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


@program.command("verify", epilog=EPILOG)
@reported
def verify(ledger: Ledger, as_json: AsJson = False) -> None:
    """Verifies every chain of a ledger, and says in numbers what happened."""
    from stepgrant_gateway.app.auditing import summarise, verify_ledger
    from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

    with closing(SqliteLedgerReader(ledger)) as reader:
        verified = verify_ledger(reader)
        summary = summarise(reader)
    if as_json:
        print_json(
            {
                "ok": True,
                "events": verified.events,
                "chains": [
                    {
                        "instance": chain.head.instance_id,
                        "events": chain.events,
                        "head": chain.head.hash.hex(),
                        "stopped": chain.stopped,
                    }
                    for chain in verified.chains
                ],
                "tasks": summary.tasks,
                "tasks_denied": summary.tasks_denied,
                "steps_granted": summary.steps_granted,
                "steps_denied": summary.steps_denied,
                "grants": summary.grants,
                "redemptions": summary.redemptions,
                "grant_seconds": summary.held.total_seconds(),
                "ends": dict(summary.ends),
                "denials": dict(summary.denials),
                "locks": summary.locks,
            }
        )
        return
    print_line(f"Verified: {verified.events} events in {len(verified.chains)} chains.")
    for chain in verified.chains:
        end = "stopped in order" if chain.stopped else "running, or was killed"
        print_line(f"  {chain.head.instance_id}  {chain.events:>8} events  {end}")
    print_line(
        f"{summary.tasks} tasks ({summary.tasks_denied} denied), {summary.steps_granted} steps granted, "
        f"{summary.steps_denied} denied, {summary.grants} grants, {summary.redemptions} redemptions, {summary.locks} locks."
    )
    print_line(f"Grants were held for {summary.held.total_seconds():.1f} s in all.")
    for what, counts in (("Ends", summary.ends), ("Denials", summary.denials)):
        if counts:
            print_line(f"{what}: " + ", ".join(f"{code} {count}" for code, count in counts.items()))


@program.command("show", epilog=EPILOG)
@reported
def show(
    ledger: Ledger,
    task: Annotated[str, typer.Option(help="Only events of this task.")] = "",
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only events of this type; may be repeated.")] = None,
    last: Annotated[int | None, typer.Option(help="Only the last so many events.", min=1)] = None,
    key: Annotated[
        Path | None, typer.Option(help="Private key (PEM) of a recipient, to open inputs.", exists=True)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows events, oldest first; with --json one JSON object a line."""
    from stepgrant_gateway.app.auditing import show as show_events
    from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

    with closing(SqliteLedgerReader(ledger)) as reader:
        opener = None if key is None else _opener(reader, key.read_bytes())
        types = frozenset(map(_event_type, kind or ()))
        for event in show_events(reader, task=task or None, types=types, limit=last, open_input=opener):
            if as_json:
                print_json(event)
            else:
                print_line(_line(event))


@program.command("copy", epilog=EPILOG)
@reported
def copy(
    ledger: Ledger,
    to: Annotated[Path, typer.Argument(help="File to make; it must not be there.")],
    as_json: AsJson = False,
) -> None:
    """Copies a ledger as it is now, also while its gateway runs, and verifies the copy."""
    from stepgrant_gateway.app.auditing import verify_ledger
    from stepgrant_gateway.storage.copying import copy_ledger
    from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

    copy_ledger(ledger, to)
    with closing(SqliteLedgerReader(to)) as reader:
        verified = verify_ledger(reader)
    if as_json:
        print_json({"ok": True, "copy": str(to), "events": verified.events, "bytes": to.stat().st_size})
        return
    print_line(f"Copied and verified: {verified.events} events, {to.stat().st_size} bytes.")


@program.command("gaps", epilog=EPILOG)
@reported
def gaps(ledger: Ledger, as_json: AsJson = False) -> None:
    """Names steps whose outcome the ledger cannot vouch for: unreported, unwitnessed, contradicted."""
    from stepgrant_gateway.app.auditing import read_all
    from stepgrant_gateway.app.gaps import find_gaps
    from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

    with closing(SqliteLedgerReader(ledger)) as reader:
        found = list(find_gaps(read_all(reader)))
    for gap in found:
        if as_json:
            document = {"at": gap.at.isoformat(), "task": gap.task, "step": gap.step, "tool": gap.tool}
            print_json({**document, "state": gap.state, "gap": gap.gap.value, "used": gap.used})
        else:
            used = "used" if gap.used else "no use taken"
            print_line(
                f"{gap.at:%Y-%m-%d %H:%M:%S} {gap.gap.value:<12} {gap.state:<9} {gap.tool} step={gap.step} {used}"
            )
    if not as_json:
        print_line(f"{len(found)} steps have a gap." if found else "Every step that has ended is accounted for.")


def _event_type(name: str) -> Any:
    from stepgrant_gateway.core.events import EventType

    try:
        return EventType(name)
    except ValueError as error:
        known = ", ".join(item.value for item in EventType)
        raise typer.BadParameter(f"{name} is no type of event; there are {known}") from error


def _opener(reader: SqliteLedgerReader, key: bytes) -> Callable[[StoredEvent], Mapping[str, Any] | None]:
    from stepgrant_gateway.storage.inputs import InputOpener

    opener = InputOpener(key)

    def open_input(stored: StoredEvent) -> Mapping[str, Any] | None:
        found = reader.input_of(stored.instance_id, stored.sequence)
        if found is None or stored.input_sha256 is None:
            return None
        return opener.open(*found, stored.input_sha256)

    return open_input


def _line(event: Mapping[str, Any]) -> str:
    data = event["data"]
    first = [f"{name}={_short(data[name])}" for name in _FIRST if data.get(name) not in (None, "", [])]
    opened = f" input={json.dumps(event['input'], ensure_ascii=False)}" if "input" in event else ""
    return f"{event['at'][11:23]} {event['sequence']:>6} {event['type']:<20} {' '.join(first)}{opened}"


def _short(value: object) -> object:
    """A list of keys as a person compares it: the first digits of each."""
    return ",".join(_DIGEST.sub(r"\1", str(one)) for one in value) if isinstance(value, list) else value
