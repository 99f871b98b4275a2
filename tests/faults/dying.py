"""`stepgrant serve`, whole and real, that dies by SIGKILL at its n-th commit or snapshot: before it, within it, or after it.

Before and within it the disk hangs first, and says so on standard output: who starts this lets the gateway say what it
will, and then kills it. What it has let out by then without a record would be found.
Usage: python dying.py PLACE NUMBER serve ...        (PLACE of `Place`; the rest is the command line of `stepgrant`)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final

from stepgrant_gateway.cli import main
from stepgrant_gateway.core.ledger import Record
from stepgrant_gateway.storage import snapshots, sqlite

HUNG: Final = '{"hung": true}'
"""The line that says that the disk hangs."""


class Place(Enum):
    """Where a gateway dies."""

    BEFORE = "before"
    """Nothing of the batch is in the file."""
    WITHIN = "within"
    """Rows are in an open transaction."""
    AFTER = "after"
    """The batch is durable, and nobody has been told."""
    MESSAGE = "message"
    """Not at a commit: the harness kills it when its clients have heard so many answers."""
    GRANTED = "granted"
    """A grant is durable, and not sent."""
    ENDING = "ending"
    """A step's end is published, and not durable."""
    ENDED = "ended"
    """A step's end is durable, and nobody has been told of that."""
    RENAMING = "renaming"
    """The newest snapshot of the ledger is not the newest any more, and the next one is not in its place."""
    KEPT = "kept"
    """A snapshot is kept, and no record names it."""


_KINDS: Final = {
    Place.GRANTED: b'"type":"step.granted"',
    Place.ENDING: b'"type":"step.ended"',
    Place.ENDED: b'"type":"step.ended"',
}
"""What the batches hold that count; for other places all of them do."""
_HANGING: Final = frozenset({Place.BEFORE, Place.ENDING})
_DYING: Final = frozenset({Place.AFTER, Place.GRANTED, Place.ENDED})


def arm(place: Place, number: int) -> None:
    """Has the `number`-th append of this process, or the `number`-th snapshot that it keeps, be its last."""
    if place in {Place.RENAMING, Place.KEPT}:
        _arm_snapshots(place, number)
        return
    append, insert = sqlite.SqliteLedger.append, sqlite._insert
    appends = 0
    kind = _KINDS.get(place, b"")

    def counted(self: sqlite.SqliteLedger, records: Sequence[Record], *beside: Any) -> None:
        nonlocal appends
        counts = any(kind in record.body for record in records)
        appends += counts
        if counts and place in _HANGING and appends == number:
            _hang()
        append(self, records, *beside)
        if counts and place in _DYING and appends == number:
            _die()

    def halfway(*rows: Any) -> None:
        insert(*rows)
        if place is Place.WITHIN and appends == number:
            _hang()

    sqlite.SqliteLedger.append = counted  # type: ignore[method-assign]  # the fail point
    sqlite._insert = halfway


def _arm_snapshots(place: Place, number: int) -> None:
    keep, replace = snapshots.SnapshotFiles.keep, Path.replace
    kept = 0

    def counted(self: snapshots.SnapshotFiles, snapshot: bytes) -> None:
        nonlocal kept
        kept += 1
        keep(self, snapshot)
        if place is Place.KEPT and kept == number:
            _die()

    def renamed(self: Path, target: Path) -> Path:
        found = replace(self, target)
        # Where a life before this one died here there is nothing to rename the first time.
        if place is Place.RENAMING and kept >= number and target.name.endswith("-before"):
            _die()
        return found

    snapshots.SnapshotFiles.keep = counted  # type: ignore[method-assign]  # the fail point
    Path.replace = renamed  # type: ignore[assignment,method-assign]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    sys.stdout.write(HUNG + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    arm(Place(sys.argv.pop(1)), int(sys.argv.pop(1)))
    main()
