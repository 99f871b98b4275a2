"""`stepgrant serve`, whole and real, whose disk hangs from SIGUSR1 to SIGUSR2, or takes its time with each sync.

Usage: python hanging.py MILLISECONDS serve ...        (how long a sync takes; the rest is the command line of `stepgrant`)
"""

from __future__ import annotations

import signal
import sys
import threading
import time

from stepgrant_gateway.cli import main
from tests.faults.vfs import OK, Operation, disk


def run(milliseconds: int) -> None:
    """The program, on such a disk."""
    free = threading.Event()
    free.set()

    def before(operation: Operation) -> int:
        free.wait()
        if operation.kind == "sync":
            time.sleep(milliseconds / 1000)
        return OK

    signal.signal(signal.SIGUSR1, lambda *_: free.clear())
    signal.signal(signal.SIGUSR2, lambda *_: free.set())
    with disk() as found:
        found.before = before
        main()


if __name__ == "__main__":
    run(int(sys.argv.pop(1)))
