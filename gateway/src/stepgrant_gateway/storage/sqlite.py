"""The ledger in one SQLite file: WAL, synced at each commit, one writer."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Final

from stepgrant_gateway.core.chain import follow_chain
from stepgrant_gateway.core.errors import LedgerBrokenError, LedgerUnusableError
from stepgrant_gateway.core.ledger import GENESIS, ChainHead, DataKey, Record, SealedInput, WrappedKey, is_instance
from stepgrant_gateway.storage.files import hold, mark, marked, prepare, recognise, usable

TAIL_CHECKED: Final = 1024
"""The last records of the ledger, of the newest chains first, that are verified on opening; of each other chain the last."""

EXPIRED_AT_ONCE: Final = 512
"""Inputs that are deleted in one commit: some 20 ms, in which nothing else is recorded."""
EXPIRY_PAUSE: Final = 0.005
"""Seconds between two such commits, so that whoever waits to write comes first."""

_INPUTS_BEFORE: Final = (
    "DELETE FROM inputs WHERE rowid IN"
    " (SELECT inputs.rowid FROM data_keys JOIN inputs USING (key_id) WHERE day < ? LIMIT ?)"
)
_HEADS: Final = (
    "SELECT instance, sequence, hash, (SELECT max(position) FROM records) FROM chains JOIN records USING (chain)"
    " WHERE sequence = (SELECT max(sequence) FROM records AS r WHERE r.chain = chains.chain) ORDER BY chain"
)
CLOSING: Final = 1.0
"""Seconds that `close` waits for a read, and for a write, to end."""

logger = logging.getLogger(__name__)

_RECORDS: Final = (
    "SELECT instance, sequence, previous_hash, hash, body FROM records JOIN chains USING (chain)"
    " WHERE instance = ? AND sequence > ? ORDER BY sequence LIMIT ?"
)


class SqliteLedger:
    """`LedgerStore` and `InputStore` in one file, held by this process until `close`.

    Reads have a connection of their own, so that they do not wait for the writer. After a failed write the writing
    connection is given up, and the next one moves what the log holds into the file, synced, before it says what is there.
    """

    def __init__(self, path: Path) -> None:
        """Opens the ledger, or makes it.

        Raises:
            LedgerUnusableError: held by another process, open to others, emptied, another program's, of a newer version, or
                on a disk that fails or is full.
            LedgerBrokenError: the end of a chain does not verify.
        """
        self._path = path
        self._closed = False
        self._writing = Lock()
        self._reading = Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._heads: dict[str, ChainHead] = {}
        self._known = _Known()
        self._hold = hold(path)
        try:
            prepare(path)
            self._writer = self._open_writer()
            self._reader = _connect(path, read_only=True)
            self._check_tails()
        except BaseException:
            self.close()
            raise

    def append(self, records: Sequence[Record], inputs: Sequence[SealedInput], keys: Sequence[DataKey] = ()) -> None:
        """See `LedgerStore`."""
        with self._writing:
            writer = self._writer or self._open_writer()
            self._writer = writer
            for record in records[:1]:
                self._refuse_fork(record)
            try:
                writer.execute("BEGIN IMMEDIATE")
                _insert(writer, self._known, records, inputs, keys)
                writer.execute("COMMIT")
            except BaseException:
                self._give_up()
                raise
            if records:
                last = records[-1]
                self._heads[last.instance_id] = ChainHead(last.instance_id, last.sequence, last.hash)

    def heads(self) -> Sequence[ChainHead]:
        """See `LedgerStore`."""
        with self._writing:
            if self._writer is None:
                self._writer = self._open_writer()
            return list(self._heads.values())

    def read(self, instance_id: str, after: int, limit: int) -> Sequence[Record]:
        """See `LedgerStore`."""
        with self._reading:
            return _read(self._read_connection(), instance_id, after, limit)

    def input_of(self, instance_id: str, sequence: int) -> tuple[SealedInput, DataKey] | None:
        """See `InputStore`."""
        with self._reading:
            return _input_of(self._read_connection(), instance_id, sequence)

    def expire(self, before: date) -> int:
        """See `InputStore`. What is deleted is overwritten, in the log too, unless a reader still holds on to it."""
        day = before.isoformat()
        # A day may have millions of inputs. Deleted at once they would hold up what waits to be recorded for minutes.
        while self._delete(_INPUTS_BEFORE, (day, EXPIRED_AT_ONCE)) == EXPIRED_AT_ONCE:
            sleep(EXPIRY_PAUSE)
        count = self._delete("DELETE FROM data_keys WHERE day < ?", (day,))
        with self._writing:
            if self._writer is not None:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return count

    def close(self) -> None:
        """Lets go of the file. Harmless when closed already. What hangs on the disk keeps it until this process ends."""
        if self._closed:
            return
        self._closed = True
        # A connection that is in the middle of something cannot be closed: SQLite would wait for as long as that takes.
        idle = [lock.acquire(timeout=CLOSING) for lock in (self._reading, self._writing)]
        if not all(idle):
            logger.error("%s is not let go of before this process ends: its disk does not answer.", self._path)
            return
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        os.close(self._hold)
        for lock in (self._reading, self._writing):
            lock.release()

    def _delete(self, statement: str, values: Sequence[object]) -> int:
        with self._writing:
            writer = self._writer or self._open_writer()
            self._writer = writer
            self._known = _Known()
            try:
                return writer.execute(statement, values).rowcount
            except BaseException:
                self._give_up()
                raise

    def _open_writer(self) -> sqlite3.Connection:
        if self._closed:
            raise LedgerUnusableError(f"{self._path} is closed.")
        writer = _connect(self._path, read_only=False)
        try:
            recognise(writer, self._path, create=not marked(self._hold))
            mark(self._path, self._hold)
            with usable(self._path):
                # WAL with FULL syncs the log at each commit: what COMMIT said survives a power loss (NORMAL would not).
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                    writer.execute(f"PRAGMA {pragma}").fetchone()
                # What a failed sync left in the log only seems durable; moving it into the file syncs it for good.
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._heads, self._known = _heads(writer), _Known()
        except BaseException:
            writer.close()
            raise
        return writer

    def _read_connection(self) -> sqlite3.Connection:
        if self._reader is None or self._closed:
            raise LedgerUnusableError(f"{self._path} is closed.")
        return self._reader

    def _give_up(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.rollback()
            with suppress(sqlite3.Error):
                writer.close()

    def _refuse_fork(self, first: Record) -> None:
        head = self._heads.get(first.instance_id) or ChainHead(first.instance_id, 0, GENESIS)
        if (first.sequence, first.previous_hash) != (head.sequence + 1, head.hash):
            raise LedgerBrokenError(
                f"ledger of gateway instance {first.instance_id}: record {first.sequence} does not follow record"
                f" {head.sequence}."
            )

    def _check_tails(self) -> None:
        left = TAIL_CHECKED
        for head in reversed(self._heads.values()):
            start = max(0, head.sequence - max(left, 1))
            left = max(0, left - head.sequence)
            after = None
            if start:
                before = self.read(head.instance_id, start - 1, 1)
                after = ChainHead(head.instance_id, start, before[0].hash if before else GENESIS)
            tail = self.read(head.instance_id, start, head.sequence - start)
            for _ in follow_chain(head.instance_id, tail, after=after):
                pass


class SqliteLedgerReader:
    """A ledger file opened to be read only, also while its gateway runs: `read`, `heads` and `input_of`."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            LedgerUnusableError: not there, another program's, or of a newer version.
        """
        if not path.is_file():
            raise LedgerUnusableError(f"{path} is not there. Name the ledger's file, as in gateway.toml.")
        self._reader = _connect(path, read_only=True)
        try:
            recognise(self._reader, path, create=False)
        except BaseException:
            self._reader.close()
            raise

    def heads(self) -> Sequence[ChainHead]:
        """See `LedgerStore`."""
        return list(_heads(self._reader).values())

    def read(self, instance_id: str, after: int, limit: int) -> Sequence[Record]:
        """See `LedgerStore`."""
        return _read(self._reader, instance_id, after, limit)

    def input_of(self, instance_id: str, sequence: int) -> tuple[SealedInput, DataKey] | None:
        """See `InputStore`."""
        return _input_of(self._reader, instance_id, sequence)

    def close(self) -> None:
        """Lets go of the file."""
        self._reader.close()


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    try:
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise LedgerUnusableError(f"{path} cannot be opened: {error}.") from error


@dataclass(slots=True)
class _Known:
    """What the writing connection wrote, or read, itself: it is there for as long as that connection is, and nothing is deleted."""

    chains: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


def _insert(
    writer: sqlite3.Connection,
    known: _Known,
    records: Sequence[Record],
    inputs: Sequence[SealedInput],
    keys: Sequence[DataKey],
) -> None:
    if records:
        instance_id = records[0].instance_id
        if records[0].sequence == 1:
            writer.execute("INSERT INTO chains (instance) VALUES (?)", (instance_id,))
        chain = known.chains.get(instance_id)
        if chain is None:
            row = writer.execute("SELECT chain FROM chains WHERE instance = ?", (instance_id,)).fetchone()
            chain = known.chains[instance_id] = row[0]
        writer.executemany(
            "INSERT INTO records (chain, sequence, previous_hash, hash, body) VALUES (?, ?, ?, ?, ?)",
            [(chain, record.sequence, record.previous_hash, record.hash, record.body) for record in records],
        )
    for key in keys:
        if key.key_id in known.keys:
            continue
        known.keys.add(key.key_id)
        day = key.day.isoformat()
        if writer.execute("INSERT OR IGNORE INTO data_keys VALUES (?, ?)", (key.key_id, day)).rowcount:
            wrapped = [(key.key_id, item.recipient, item.ciphertext) for item in key.wrapped]
            writer.executemany("INSERT INTO wrapped_keys VALUES (?, ?, ?)", wrapped)
    if inputs:
        writer.executemany(
            "INSERT INTO inputs VALUES (?, ?, ?, ?, ?)",
            [(item.instance_id, item.sequence, item.key_id, item.nonce, item.ciphertext) for item in inputs],
        )


def _heads(connection: sqlite3.Connection) -> dict[str, ChainHead]:
    try:
        rows = connection.execute(_HEADS).fetchall()
    except sqlite3.DatabaseError as error:
        raise LedgerUnusableError(f"the ledger's chains cannot be read: {error}.") from error
    if not all(is_instance(instance) and type(hashed) is bytes for instance, _, hashed, _ in rows):
        raise LedgerUnusableError("the ledger's chains cannot be read: the file is damaged. Restore it from a copy.")
    found = {instance: ChainHead(instance, sequence, hashed) for instance, sequence, hashed, _ in rows}
    # Records are numbered through. A damaged index could hide the end of a chain, and nothing else would tell.
    if rows and sum(head.sequence for head in found.values()) != rows[0][3]:
        raise LedgerBrokenError(
            f"the ledger holds {rows[0][3]} records, but its chains do not come to that many: records are missing or hidden."
        )
    return found


def _read(connection: sqlite3.Connection, instance_id: str, after: int, limit: int) -> list[Record]:
    try:
        rows = connection.execute(_RECORDS, (instance_id, after, limit)).fetchall()
    except sqlite3.DatabaseError as error:
        raise LedgerBrokenError(f"ledger of gateway instance {instance_id}: cannot be read: {error}.") from error
    for _, sequence, previous, hashed, body in rows:
        # A bit that flips in the file can change the type of what it gives back.
        if not type(previous) is type(hashed) is type(body) is bytes:
            raise LedgerBrokenError(f"ledger of gateway instance {instance_id}: record {sequence} is damaged.")
    return [Record(*row) for row in rows]


def _input_of(connection: sqlite3.Connection, instance_id: str, sequence: int) -> tuple[SealedInput, DataKey] | None:
    row = connection.execute(
        "SELECT key_id, nonce, ciphertext, day FROM inputs JOIN data_keys USING (key_id)"
        " WHERE instance = ? AND sequence = ?",
        (instance_id, sequence),
    ).fetchone()
    if row is None:
        return None
    key_id, nonce, ciphertext, day = row
    wrapped = connection.execute("SELECT recipient, ciphertext FROM wrapped_keys WHERE key_id = ?", (key_id,))
    key = DataKey(key_id, date.fromisoformat(day), tuple(WrappedKey(*item) for item in wrapped))
    return SealedInput(instance_id, sequence, key_id, nonce, ciphertext), key
