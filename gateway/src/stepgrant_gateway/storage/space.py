"""What is free on the ledger's disk, and one line of the log when that becomes little: before it is full, not when it is."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

LITTLE: Final = 1024**3
"""Free bytes below which somebody should look: at some 3 kB a step, a few hundred thousand steps."""
ENOUGH: Final = LITTLE + LITTLE // 8
"""Free bytes from which on that is over, so that a disk at the edge does not fill the log as well."""

_log = logging.getLogger(__name__)


def free_bytes(folder: Path) -> int:
    """What is free for this user on the disk of a folder; raises OSError if that cannot be seen."""
    return shutil.disk_usage(folder).free


class DiskSpace:
    """Looks at the disk of one ledger when it is told to."""

    def __init__(self, ledger: Path | None, free: Callable[[Path], int] = free_bytes) -> None:
        """`ledger` None: it is in memory, and there is nothing to look at."""
        self._folder = None if ledger is None else ledger.parent
        self._free = free
        self._low = False
        self._seen: int | None = None

    @property
    def free(self) -> int | None:
        """The free bytes at the last look; None without a file, or if they could not be seen."""
        return self._seen

    def look(self) -> None:
        """Sees what is free now."""
        if self._folder is None:
            return
        try:
            self._seen = free = self._free(self._folder)
        except OSError:
            self._seen = None  # The ledger's own check says what is wrong with its disk.
            return
        if not self._low and free < LITTLE:
            self._low = True
            _log.warning("%d MiB are free on the ledger's disk.", free // 1024**2, extra={"event": "disk_low"})
        elif self._low and free >= ENOUGH:
            self._low = False
            _log.warning("The ledger's disk has space again.", extra={"event": "disk_enough"})
