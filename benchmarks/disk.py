"""What one durable commit costs here and now: the part of a decision that no code of ours can shorten."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from streams import Contestant

ROW_BYTES: Final = 1500
"""About a decision's record with its sealed input."""


SYNCS: Final = 50


def sync_us(directory: Path) -> int:
    """Microseconds that this disk takes to make a few KiB durable, at the median. Next to nothing = it is memory."""
    taken = []
    with (directory / "synced").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return round(median(taken) * 1e6)


class RecordedSteps:
    """Another contestant's steps, each with one commit of one row on top: the least that an answer on record costs."""

    def __init__(self, bare: Contestant, connection: sqlite3.Connection) -> None:
        self._bare = bare
        self._connection = connection

    async def step(self) -> float:
        """See `streams.Contestant`."""
        took = await self._bare.step()
        begun = time.perf_counter()
        self._connection.execute("INSERT INTO rows VALUES (?)", (bytes(ROW_BYTES),))
        return took + time.perf_counter() - begun


@contextmanager
def recorded(bare: Contestant, directory: Path) -> Iterator[RecordedSteps]:
    """`bare`, recorded in a new file of `directory` under the pragmas of the ledger."""
    with closing(sqlite3.connect(directory / "commits.db", isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE rows (row BLOB)"):
            connection.execute(statement).fetchone()
        yield RecordedSteps(bare, connection)
