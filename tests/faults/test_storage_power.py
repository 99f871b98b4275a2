"""Power that fails, and disks that refuse a write or a sync: what was acknowledged is there, what was refused is not."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stepgrant_gateway.app.auditing import verify_ledger
from stepgrant_gateway.app.writing import ChainWriter
from stepgrant_gateway.core.errors import LedgerUnusableError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import Record
from stepgrant_gateway.storage.files import MARK
from stepgrant_gateway.storage.inputs import DigestSealer
from stepgrant_gateway.storage.sqlite import SqliteLedger
from tests.faults.vfs import FULL, IOERR_FSYNC, IOERR_WRITE, OK, Disk, Operation, disk
from tests.kit.chains import INSTANCE, chain_of, counted_entropy, started
from tests.kit.clock import START

SEED = 20261122
BATCHES = 40
LOSSES = 80
"""Moments at which the power is lost, of the few hundred operations that there are."""


def noted(number: int) -> Event:
    return Event(EventType.KEY_ACTIVATED, START, {"number": number, "text": "x" * 1500})


CHAIN = chain_of(started(), *(noted(number) for number in range(3 * BATCHES)))


@pytest.fixture
def under() -> Iterator[Disk]:
    with disk() as found:
        yield found


def recorded(folder: Path) -> list[Record]:
    """What a gateway that starts on this folder reads, once it verifies."""
    (folder / "ledger.db.lock").write_bytes(MARK)
    with closing(SqliteLedger(folder / "ledger.db")) as store:
        if store.heads():
            verify_ledger(store)
        return list(store.read(INSTANCE, 0, len(CHAIN)))


def test_st_02_what_was_acknowledged_outlives_a_loss_of_power_at_any_moment(under: Disk, tmp_path: Path) -> None:
    """INV-03. Of what was not synced any sectors may be on the disk, and any may not."""
    numbers = random.Random(SEED)
    acknowledged = 0
    losses: list[tuple[Path, int]] = []
    moments: set[int] = set()

    def before(_: Operation) -> int:
        if len(under.operations) in moments:
            folder = tmp_path / f"loss-{len(losses)}"
            folder.mkdir()
            under.power_lost(numbers, tmp_path / "truth", folder)
            losses.append((folder, acknowledged))
        return OK

    def work(path: Path) -> None:
        nonlocal acknowledged
        path.parent.mkdir()
        for life in range(4):
            # A new life moves the log into the file, in the middle of the chain: writes to both, and a shorter log.
            with closing(SqliteLedger(path)) as store:
                begin, end = (len(CHAIN) * part // 4 for part in (life, life + 1))
                for at in range(begin, end, 3):
                    store.append(CHAIN[at : min(at + 3, end)], [])
                    acknowledged = min(at + 3, end)

    work(tmp_path / "rehearsal" / "ledger.db")
    total = len(under.operations)
    moments |= {total + moment for moment in numbers.sample(range(1, total), LOSSES)}
    acknowledged = 0
    under.before = before
    work(tmp_path / "truth" / "ledger.db")
    under.before = lambda _: OK

    assert len(losses) == LOSSES
    # A folder whose ledger was not begun yet has an empty file, or one half made; nothing was acknowledged on it.
    for folder, least in losses:
        if least == 0:
            continue
        found = recorded(folder)
        assert found == CHAIN[: len(found)]
        assert len(found) >= least, f"{least} records were acknowledged, {len(found)} are there"


def attempt(under: Disk, path: Path, fails: Callable[[int, Operation], int]) -> tuple[int, bool]:
    """Appends a batch of which an operation may fail; the number of operations, and whether one did."""
    failed = False
    with closing(SqliteLedger(path)) as store:
        writer = ChainWriter(store, DigestSealer(counted_entropy()), INSTANCE)
        first, _ = writer.started(START, {})
        assert writer.write([[first]]).durable
        begin = len(under.operations)

        def before(operation: Operation) -> int:
            nonlocal failed
            answer = OK if failed else fails(len(under.operations) - begin, operation)
            failed = failed or answer != OK
            return answer

        under.before = before
        written = writer.write([[noted(1)], [noted(2)]])
        under.before = lambda _: OK
        count = len(under.operations) - begin
        said = (written if written.durable is not None else writer.settle()).durable
        held = [record.sequence for record in store.read(INSTANCE, 0, 10)]
        assert held == ([1, 2, 3] if said else [1])
        # It goes on, with a connection of its own, on what is there.
        assert writer.write([[noted(3)]]).durable
        assert verify_ledger(store).events == len(held) + 1
    with closing(SqliteLedger(path)) as store:
        assert verify_ledger(store).events == len(held) + 1
    return count, failed


@pytest.mark.parametrize(
    ("kind", "code"), [("write", IOERR_WRITE), ("write", FULL), ("sync", IOERR_FSYNC)], ids=["write", "full", "sync"]
)
def test_st_04_an_error_at_each_write_and_each_sync_leaves_all_of_a_batch_or_nothing(
    under: Disk, tmp_path: Path, kind: str, code: int
) -> None:
    """INV-03: what the writer says of it is what the file holds, then and after the next start."""
    count, _ = attempt(under, tmp_path / "whole.db", lambda number, operation: OK)
    tried = 0
    for chosen in range(1, count + 1):

        def fails(number: int, operation: Operation, chosen: int = chosen) -> int:
            return code if number == chosen and operation.kind == kind else OK

        _, failed = attempt(under, tmp_path / f"{chosen}.db", fails)
        tried += failed
    assert tried


def test_st_04_after_a_sync_that_failed_nothing_more_is_done_with_that_file(under: Disk, tmp_path: Path) -> None:
    """A second sync would say that all is well although the pages are gone: the handle is given up, the log is written anew."""
    with closing(SqliteLedger(tmp_path / "ledger.db")) as store:
        store.append(CHAIN[:1], [])
        before = store._writer
        under.before = lambda operation: IOERR_FSYNC if operation.kind == "sync" else OK
        with pytest.raises(Exception, match="disk I/O error"):
            store.append(CHAIN[1:2], [])
        assert store._writer is None
        with pytest.raises(LedgerUnusableError, match="cannot be used now"):
            store.heads()
        under.before = lambda _: OK
        (head,) = store.heads()
        assert store._writer is not before
        store.append(CHAIN[head.sequence : 3], [])
    assert recorded(tmp_path) == CHAIN[:3]


def test_st_04_nothing_is_recorded_behind_what_a_failed_sync_left_in_the_log(under: Disk, tmp_path: Path) -> None:
    """The kernel shows what it could not write, and forgets it with the power: a start moves it into the file first."""
    killed, lost = tmp_path / "killed", tmp_path / "lost"
    killed.mkdir()
    lost.mkdir()
    with closing(SqliteLedger(tmp_path / "ledger.db")) as store:
        store.append(CHAIN[:1], [])
        under.before = lambda operation: IOERR_FSYNC if operation.kind == "sync" else OK
        with pytest.raises(Exception, match="disk I/O error"):
            store.append(CHAIN[1:2], [])
        under.process_killed(tmp_path, killed)
        under.before = lambda _: OK
    with closing(SqliteLedger(killed / "ledger.db")) as store:
        assert [head.sequence for head in store.heads()] == [2]
        store.append(CHAIN[2:3], [])
        under.power_lost(random.Random(SEED), killed, lost)
    assert recorded(lost) == CHAIN[:3]


@pytest.mark.parametrize("moment", range(1, 12))
def test_st_06_a_ledger_whose_making_was_cut_short_is_made_whole_or_not_at_all(
    under: Disk, tmp_path: Path, moment: int
) -> None:
    """There is one schema, made in one transaction: its making is the only migration that there is."""
    lost = tmp_path / "lost"
    lost.mkdir()

    def before(_: Operation) -> int:
        if len(under.operations) == moment:
            under.power_lost(random.Random(moment), tmp_path, lost)
        return OK

    under.before = before
    with closing(SqliteLedger(tmp_path / "ledger.db")) as store:
        store.append(CHAIN[:1], [])
    (lost / "ledger.db").touch(0o600)
    with closing(SqliteLedger(lost / "ledger.db")) as store:
        assert [head.sequence for head in store.heads()] in ([], [1])
        if not store.heads():
            store.append(CHAIN[:1], [])


def test_st_04_a_ledger_is_left_although_a_write_hangs(
    under: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite would wait for it, and a gateway that is told to stop with it."""
    hung, free = threading.Event(), threading.Event()

    def before(_: Operation) -> int:
        hung.set()
        free.wait(10)
        return OK

    store = SqliteLedger(tmp_path / "ledger.db")
    store.append(CHAIN[:1], [])
    under.before = before
    writing = threading.Thread(target=store.append, args=(CHAIN[1:2], []))
    writing.start()
    assert hung.wait(60)
    store.close()
    assert writing.is_alive()
    assert "its disk does not answer" in caplog.text
    with pytest.raises(LedgerUnusableError, match="another running gateway"):
        SqliteLedger(tmp_path / "ledger.db")
    free.set()
    writing.join(60)
    under.before = lambda _: OK
    for connection in (store._reader, store._writer):
        assert connection is not None
        connection.close()
    os.close(store._hold)
    assert recorded(tmp_path) == CHAIN[:2]
