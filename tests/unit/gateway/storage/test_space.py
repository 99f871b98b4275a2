"""What is free on the ledger's disk, and when that is said."""

from __future__ import annotations

import logging
from pathlib import Path

from stepgrant_gateway.storage.space import ENOUGH, LITTLE, DiskSpace, free_bytes

LEDGER = Path("/data/ledger.db")


def said(caplog) -> list[str]:
    return [record.event for record in caplog.records]


def test_ds_07_little_space_is_said_once_and_so_is_that_it_is_over(caplog) -> None:
    caplog.set_level(logging.WARNING)
    free = iter([ENOUGH, LITTLE - 1, LITTLE - 2, LITTLE + 1, LITTLE - 1, ENOUGH, ENOUGH + 1])
    space = DiskSpace(LEDGER, lambda folder: next(free))
    heard = []
    for _ in range(7):
        space.look()
        heard.append(len(caplog.records))

    assert said(caplog) == ["disk_low", "disk_enough"]
    assert heard == [0, 1, 1, 1, 1, 2, 2]
    assert space.free == ENOUGH + 1


def test_a_ledger_in_memory_has_no_disk_and_a_disk_that_cannot_be_seen_has_no_figure(caplog) -> None:
    def broken(folder: Path) -> int:
        raise OSError(5, "Input/output error")

    for space in (DiskSpace(None, lambda folder: 0), DiskSpace(LEDGER, broken)):
        space.look()
        assert space.free is None
    assert said(caplog) == []


def test_the_disk_is_that_of_the_ledgers_folder(tmp_path) -> None:
    space = DiskSpace(tmp_path / "ledger.db")
    space.look()
    assert space.free is not None
    assert abs(space.free - free_bytes(tmp_path)) < LITTLE
