"""What the SQLite engine does beyond the contract: its file, its lock, its recovery."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant_gateway.core.errors import LedgerBrokenError, LedgerUnusableError
from stepgrant_gateway.core.ledger import DataKey, SealedInput
from stepgrant_gateway.storage import sqlite
from stepgrant_gateway.storage.files import MARK
from stepgrant_gateway.storage.sqlite import EXPIRED_AT_ONCE, TAIL_CHECKED, SqliteLedger, SqliteLedgerReader
from tests.kit.chains import INSTANCE, chain_of, ended, granted, head_of, started
from tests.kit.clock import START

CHAIN = chain_of(started(), granted(1), ended(1), granted(2), ended(2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def written(path: Path, records: Sequence[object] = CHAIN) -> Path:
    store = SqliteLedger(path)
    store.append(records, [])
    store.close()
    return path


def tampered(path: Path, *statements: str) -> Path:
    """The file after somebody with write access to it was there."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TRIGGER IF EXISTS records_stay; DROP TRIGGER IF EXISTS records_remain;" + ";".join(statements)
    )
    connection.close()
    return path


def test_a_ledger_that_was_closed_opens_again_with_all_that_it_held(path):
    store = SqliteLedger(written(path))
    assert list(store.heads()) == [head_of(CHAIN)]
    assert list(store.read(INSTANCE, 0, 10)) == CHAIN
    store.close()
    store.close()


def test_the_ledger_takes_records_while_the_inputs_of_a_busy_day_are_destroyed(path, monkeypatch):
    """SM-11: deleted at once, they would have every decision of that time fail as `unrecorded`."""
    many = 2 * EXPIRED_AT_ONCE + 1
    day = DataKey("monday", START.date(), ())
    inputs = [SealedInput(INSTANCE, number, day.key_id, b"n" * 12, b"sealed") for number in range(1, many + 1)]
    store = SqliteLedger(path)
    store.append(CHAIN[:1], inputs, [day])
    left: list[int] = []

    def pause(_: float) -> None:
        head = store.heads()[0]
        store.append(CHAIN[head.sequence : head.sequence + 1], [])
        left.append(sum(store.input_of(INSTANCE, item.sequence) is not None for item in inputs))

    monkeypatch.setattr(sqlite, "sleep", pause)

    assert store.expire(START.date() + timedelta(days=1)) == 1
    assert left == [EXPIRED_AT_ONCE + 1, 1]
    assert list(store.read(INSTANCE, 0, 10)) == CHAIN[:3]
    assert all(store.input_of(INSTANCE, item.sequence) is None for item in inputs)
    store.close()


def test_every_file_of_the_ledger_is_for_its_owner_only(path):
    before = os.umask(0)
    try:
        store = SqliteLedger(path)
        store.append(CHAIN, [])
        modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
    finally:
        os.umask(before)
    store.close()
    assert set(modes) >= {"ledger.db", "ledger.db-wal", "ledger.db.lock"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700])
def test_inv_13_a_ledger_that_others_can_open_is_refused(path, mode):
    written(path).chmod(mode)
    with pytest.raises(LedgerUnusableError, match="chmod 600"):
        SqliteLedger(path)


def test_what_commit_said_is_on_the_disk(path):
    store = SqliteLedger(path)
    assert store._writer is not None
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_second_opening_is_refused_clearly_and_the_first_goes_on(path):
    store = SqliteLedger(path)
    with pytest.raises(LedgerUnusableError, match="another running gateway"):
        SqliteLedger(path)
    store.append(CHAIN, [])
    store.close()
    SqliteLedger(path).close()


async def test_a_second_process_is_refused_clearly(path):
    program = (
        "import sys, pathlib\n"
        "from stepgrant_gateway.core.errors import LedgerUnusableError\n"
        "from stepgrant_gateway.storage.sqlite import SqliteLedger\n"
        "try:\n    SqliteLedger(pathlib.Path(sys.argv[1]))\n"
        "except LedgerUnusableError as error:\n    print(error)\n    sys.exit(3)\n"
    )
    store = SqliteLedger(path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(path), stdout=asyncio.subprocess.PIPE, env=environment
    )
    said, _ = await asyncio.wait_for(process.communicate(), timeout=30)
    store.close()
    assert process.returncode == 3
    assert b"another running gateway" in said


def test_a_file_of_another_program_is_refused_and_not_touched(path):
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE photos (name TEXT)")
    connection.close()
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(LedgerUnusableError, match="another program's file"):
        SqliteLedger(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_not_touched(path):
    path.write_bytes(b"name,amount\n" * 100)
    path.chmod(0o600)
    with pytest.raises(LedgerUnusableError, match="is not a ledger"):
        SqliteLedger(path)
    assert path.read_bytes() == b"name,amount\n" * 100


def test_st_06_a_file_of_a_newer_version_is_refused(path):
    tampered(written(path), "PRAGMA user_version = 2")
    with pytest.raises(LedgerUnusableError, match="a newer stepgrant wrote it"):
        SqliteLedger(path)
    with pytest.raises(LedgerUnusableError, match="a newer stepgrant wrote it"):
        SqliteLedgerReader(path)


@pytest.mark.parametrize("left", [0, 1])
def test_inv_11_a_ledger_that_was_emptied_is_not_begun_anew(path, left):
    """INV-11: its locks would be forgotten, and nobody would hear of it."""
    os.truncate(written(path), left)
    for _ in range(2):
        with pytest.raises(LedgerUnusableError, match=r"is empty.*delete ledger\.db\.lock"):
            SqliteLedger(path)
    path.with_name("ledger.db.lock").unlink()
    SqliteLedger(path).close()


def test_inv_11_a_ledger_that_is_gone_is_not_begun_anew(path):
    """INV-11, as above."""
    written(path).unlink()
    with pytest.raises(LedgerUnusableError, match="is empty"):
        SqliteLedger(path)


def test_a_ledger_from_before_the_mark_opens_and_is_marked(path):
    os.truncate(written(path).with_name("ledger.db.lock"), 0)
    SqliteLedger(path).close()
    assert path.with_name("ledger.db.lock").read_bytes() == MARK


def test_a_ledger_that_was_cut_off_is_refused_and_not_touched(path):
    os.truncate(written(path), 10_000)
    before = path.read_bytes()
    with pytest.raises(LedgerUnusableError, match="Restore it from a copy"):
        SqliteLedger(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("pragma", ["application_id", "wal_checkpoint"])
def test_a_disk_that_fails_sends_nobody_to_another_file(path, monkeypatch, pragma):
    class Failing(sqlite3.Connection):
        def execute(self, sql, *values):
            if pragma in sql:
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)

    def connect(path, *, read_only):
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)

    with monkeypatch.context() as disk:
        disk.setattr(sqlite, "_connect", connect)
        with pytest.raises(LedgerUnusableError, match="cannot be used now: database or disk is full") as caught:
            SqliteLedger(path)
    assert "nothing else has to be done" in str(caught.value)
    SqliteLedger(path).close()


def test_a_folder_that_is_not_there_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(LedgerUnusableError, match="Make its folder"):
        SqliteLedger(tmp_path / "nowhere" / "ledger.db")
    with pytest.raises(LedgerUnusableError, match="not a file"):
        SqliteLedger(_folder(tmp_path / "folder"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_records_can_be_neither_changed_nor_deleted_by_accident(path):
    connection = sqlite3.connect(written(path))
    for statement in ("UPDATE records SET body = x'00'", "DELETE FROM records"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "sequence"),
    [
        ("UPDATE records SET body = CAST(body || ' ' AS BLOB) WHERE sequence = 3", 3),
        ("DELETE FROM records WHERE sequence = 2", 2),
        ("DELETE FROM records WHERE sequence = 1", 1),
    ],
)
def test_inv_14_opening_finds_what_was_done_to_the_end_of_a_chain(path, statement, sequence):
    tampered(written(path), statement)
    with pytest.raises(LedgerBrokenError, match=f"record {sequence} "):
        SqliteLedger(path)


def test_st_04_records_that_no_chain_comes_to_are_missed(path):
    """As when the index is damaged: the end of the last chain would be hidden, and nothing else would tell."""
    tampered(written(path), "UPDATE records SET position = 6 WHERE sequence = 5")
    with pytest.raises(LedgerBrokenError, match="missing or hidden"):
        SqliteLedger(path)


def test_st_04_bytes_that_come_back_as_text_are_damage(path):
    tampered(
        written(path),
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, 'body BLOB', 'body ANY')",
    )
    tampered(path, "UPDATE records SET body = CAST(body AS TEXT) WHERE sequence = 4")
    with pytest.raises(LedgerBrokenError, match="record 4 is damaged"):
        SqliteLedger(path)


def test_opening_a_long_chain_verifies_its_tail_from_the_record_before(path):
    records = chain_of(started(), *(ended(number % 7) for number in range(TAIL_CHECKED + 10)))
    SqliteLedger(written(path, records)).close()
    tampered(path, f"UPDATE records SET hash = x'{'00' * 32}' WHERE sequence = {len(records) - TAIL_CHECKED}")
    with pytest.raises(LedgerBrokenError):
        SqliteLedger(path)


def test_a_failed_append_stores_nothing_and_the_next_one_can_go_on(path):
    store = SqliteLedger(path)
    store.append(CHAIN[:2], [])
    assert store._writer is not None
    store._writer.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'disk'); END")
    with pytest.raises(sqlite3.Error):
        store.append(CHAIN[2:], [])
    assert store._writer is None, "a connection that failed is not used again"
    assert list(store.heads()) == [head_of(CHAIN[:2])]
    store.append(CHAIN[2:], [])
    assert list(store.read(INSTANCE, 0, 10)) == CHAIN
    store.close()


def test_what_a_failed_append_began_is_not_believed_to_be_there(path):
    """Neither its chain nor its key: the next append makes both."""
    store = SqliteLedger(path)
    assert store._writer is not None
    store._writer.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON inputs BEGIN SELECT RAISE(ABORT, 'disk'); END")
    kept = SealedInput(INSTANCE, 2, "key", b"n" * 12, b"sealed")
    for refused in (True, False):
        with pytest.raises(sqlite3.Error) if refused else contextlib.nullcontext():
            store.append(CHAIN[:2], [kept], [DataKey("key", START.date(), ())])
    assert list(store.read(INSTANCE, 0, 10)) == CHAIN[:2]
    assert store.input_of(INSTANCE, 2) == (kept, DataKey("key", START.date(), ()))
    store.close()


def test_a_reader_reads_while_the_gateway_runs_and_after_it_has_stopped(path):
    store = SqliteLedger(path)
    store.append(CHAIN[:3], [])
    reader = SqliteLedgerReader(path)
    assert list(reader.read(INSTANCE, 0, 10)) == CHAIN[:3]
    store.append(CHAIN[3:], [])
    assert list(reader.heads()) == [head_of(CHAIN)]
    reader.close()
    store.close()
    reader = SqliteLedgerReader(path)
    assert list(reader.read(INSTANCE, 0, 10)) == CHAIN
    assert reader.input_of(INSTANCE, 2) is None
    reader.close()


def test_a_reader_makes_no_file(path):
    with pytest.raises(LedgerUnusableError, match="is not there"):
        SqliteLedgerReader(path)
    assert not path.exists()


def test_a_closed_ledger_says_so(path):
    store = SqliteLedger(path)
    store.close()
    with pytest.raises(LedgerUnusableError, match="is closed"):
        store.read(INSTANCE, 0, 1)


def test_a_ledger_without_its_tables_is_unusable_and_says_so(path):
    tampered(written(path), "DROP TABLE records")
    with contextlib.closing(SqliteLedgerReader(path)) as reader, pytest.raises(LedgerUnusableError, match="records"):
        reader.heads()
