"""`stepgrant serve`, whole and real, that dies by SIGKILL at its n-th commit: before it, within it, or right after it.

Before and within it the disk hangs first, and says so on standard output: who starts this lets the gateway say what it
will, and then kills it. What it has let out by then without a record would be found.
Usage: python dying.py PLACE NUMBER serve ...        (PLACE of `Place`; the rest is the command line of `stepgrant`)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from enum import Enum
from typing import Any, Final

from stepgrant_gateway.cli import main
from stepgrant_gateway.storage import sqlite

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


def arm(place: Place, number: int) -> None:
    """Has the `number`-th append of this process be its last."""
    append, insert = sqlite.SqliteLedger.append, sqlite._insert
    appends = 0

    def counted(self: sqlite.SqliteLedger, *batch: Any) -> None:
        nonlocal appends
        appends += 1
        if place is Place.BEFORE and appends == number:
            _hang()
        append(self, *batch)
        if place is Place.AFTER and appends == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def halfway(*rows: Any) -> None:
        insert(*rows)
        if place is Place.WITHIN and appends == number:
            _hang()

    sqlite.SqliteLedger.append = counted  # type: ignore[method-assign]  # the fail point
    sqlite._insert = halfway


def _hang() -> None:
    sys.stdout.write(HUNG + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    arm(Place(sys.argv.pop(1)), int(sys.argv.pop(1)))
    main()
