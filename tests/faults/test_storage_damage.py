"""Files that were damaged: found when opened or verified, or of no account; and what a killed gateway leaves beside its file."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from stepgrant_gateway.app.auditing import verify_ledger
from stepgrant_gateway.app.folding import fold_ledger
from stepgrant_gateway.core.chain import Witness
from stepgrant_gateway.core.errors import LedgerBrokenError, LedgerUnusableError
from stepgrant_gateway.core.ledger import Record
from stepgrant_gateway.storage.files import MARK
from stepgrant_gateway.storage.sqlite import SqliteLedger
from tests.kit.chains import INSTANCE, OTHER, chain_of, head_of, started
from tests.kit.work import work

SEED = 20261122
FLIPS = 150
FIRST = chain_of(started(), *work(150))
SECOND = chain_of(started([head_of(FIRST)]), *work(150, seed=2), instance=OTHER)


def open_store(path: Path) -> SqliteLedger:
    path.with_name(path.name + ".lock").write_bytes(MARK)
    return SqliteLedger(path)


def everything(store: SqliteLedger) -> list[Record]:
    return [record for head in store.heads() for record in store.read(head.instance_id, 0, head.sequence)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of two lives, closed in order."""
    path = tmp_path_factory.mktemp("whole") / "ledger.db"
    with closing(SqliteLedger(path)) as store:
        for chain in (FIRST, SECOND):
            for begin in range(0, len(chain), 20):
                store.append(chain[begin : begin + 20], [])
    return path


def test_st_04_a_flipped_bit_is_found_or_changes_nothing_that_is_read(whole: Path, tmp_path: Path) -> None:
    """INV-14: whatever a start or `audit verify` takes for the record is what was written, or it is refused with the ledger's error."""
    numbers = random.Random(SEED)
    data = whole.read_bytes()
    found = 0
    path = tmp_path / "ledger.db"
    for _ in range(FLIPS):
        flipped = bytearray(data)
        flipped[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
        path.write_bytes(flipped)
        path.chmod(0o600)
        try:
            with closing(open_store(path)) as store:
                verify_ledger(store)
                fold_ledger(store)
                assert everything(store) == [*FIRST, *SECOND]
        except (LedgerBrokenError, LedgerUnusableError):
            found += 1
    assert found > FLIPS // 3


def killed(folder: Path, to: Path) -> Path:
    """What a gateway that is killed after FIRST leaves: the file, and a log and an index that nobody tidied up."""
    with closing(SqliteLedger(folder / "ledger.db")) as store:
        for begin in range(0, len(FIRST), 20):
            store.append(FIRST[begin : begin + 20], [])
        for path in folder.glob("ledger.db*"):
            shutil.copy(path, to)
    return to / "ledger.db"


def refused(path: Path) -> str:
    with pytest.raises(LedgerUnusableError) as error:
        SqliteLedger(path)
    return str(error.value)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    (tmp_path / "alive").mkdir()
    (tmp_path / "left").mkdir()
    return killed(tmp_path / "alive", tmp_path / "left")


def test_st_04_the_index_of_the_log_can_be_deleted_or_damaged(left: Path) -> None:
    """It is made anew from the log; nothing stands in it alone."""
    index = left.with_name("ledger.db-shm")
    assert index.exists()
    index.unlink()
    with closing(SqliteLedger(left)) as store:
        assert everything(store) == FIRST
        store.append(SECOND[:1], [])


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.99])
def test_st_04_a_log_that_lost_its_end_leaves_whole_batches_and_a_witness_sees_it(left: Path, part: float) -> None:
    """Without a witness a shorter log is what an earlier death would have left: the threat model says so."""
    log = left.with_name("ledger.db-wal")
    log.write_bytes(log.read_bytes()[: int(log.stat().st_size * part)])
    with closing(SqliteLedger(left)) as store:
        held = everything(store)
        assert held == FIRST[: len(held)]
        assert len(held) < len(FIRST)
        assert len(held) % 20 == 0
        with pytest.raises(LedgerBrokenError):
            verify_ledger(store, [Witness(head_of(FIRST), "a signed checkpoint")])


def test_st_04_a_bit_that_flips_in_the_log_ends_it_there(left: Path) -> None:
    """Each frame bears a checksum over all before it: what comes after is not taken, never something else."""
    numbers = random.Random(SEED)
    log = left.with_name("ledger.db-wal")
    data = log.read_bytes()
    for _ in range(40):
        flipped = bytearray(data)
        flipped[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
        copy = left.parent / "copy"
        copy.mkdir()
        for name in ("ledger.db", "ledger.db.lock"):
            shutil.copy(left.with_name(name), copy)
        (copy / "ledger.db-wal").write_bytes(flipped)
        try:
            with closing(SqliteLedger(copy / "ledger.db")) as store:
                held = everything(store)
                assert held == FIRST[: len(held)]
        except LedgerUnusableError:
            # The batch with which the file became a ledger was behind that bit, too: it is empty, and not begun anew.
            assert "empty" in refused(copy / "ledger.db")
        shutil.rmtree(copy)


def test_st_04_the_log_of_another_ledger_is_not_taken_for_this_ones(left: Path, whole: Path) -> None:
    """A file that was put back from a copy, beside a log that was not."""
    before = left.with_name("ledger.db-wal").read_bytes()
    shutil.copy(whole, left)
    assert left.with_name("ledger.db-wal").read_bytes() == before
    try:
        with closing(SqliteLedger(left)) as store:
            verify_ledger(store)
            assert everything(store) in ([*FIRST, *SECOND], FIRST)
    except (LedgerBrokenError, LedgerUnusableError):
        pass


def test_inv_14_both_chains_are_there_when_nothing_is_damaged(whole: Path) -> None:
    with closing(SqliteLedger(whole)) as store:
        assert verify_ledger(store).events == len(FIRST) + len(SECOND)
        assert [head.instance_id for head in store.heads()] == [INSTANCE, OTHER]
