"""Snapshots of the fold as two files beside the ledger: the newest and the one before. Losing them costs time only."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from stepgrant_gateway.storage.files import OWNER_ONLY

MAX_SNAPSHOT_BYTES: Final = 1024 * 1024 * 1024
"""More is not read: a file that grew by itself must not take all memory at start."""

logger = logging.getLogger(__name__)


class SnapshotFiles:
    """`SnapshotStore` beside one ledger, of what `kind` names: `<ledger>.snapshot` and `<ledger>.snapshot-before`."""

    def __init__(self, ledger: Path, kind: str = "snapshot") -> None:
        self._newest = ledger.with_name(f"{ledger.name}.{kind}")
        self._before = ledger.with_name(f"{ledger.name}.{kind}-before")
        self._next = ledger.with_name(f"{ledger.name}.{kind}-next")

    def keep(self, snapshot: bytes) -> None:
        """See `SnapshotStore`. At every moment the one before is there, whole."""
        with suppress(FileNotFoundError):
            self._next.unlink()
        descriptor = os.open(self._next, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(snapshot)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            self._newest.replace(self._before)
        self._next.replace(self._newest)
        folder = os.open(self._newest.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def kept(self) -> Iterator[bytes]:
        """See `SnapshotStore`. What others could have written is left out as well."""
        for path in (self._newest, self._before):
            try:
                found = _read(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("%s cannot be read: %s.", path, error.strerror)
                continue
            if found is None:
                logger.warning("%s is not a file of its owner alone, or too large: it is not read.", path)
            else:
                yield found


def _read(path: Path) -> bytes | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & ~OWNER_ONLY:
            return None
        data = file.read(MAX_SNAPSHOT_BYTES + 1)
    return data if len(data) <= MAX_SNAPSHOT_BYTES else None
