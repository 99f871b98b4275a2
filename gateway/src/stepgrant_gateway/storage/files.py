"""The ledger's file: made for its owner alone, held by one process, and recognised before anything is read from it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stepgrant_gateway.core.errors import LedgerUnusableError

APPLICATION_ID: Final = 0x53544750
"""`STGP` in SQLite's header field for the program that owns a file."""
SCHEMA_VERSION: Final = 1
OWNER_ONLY: Final = 0o600
MARK: Final = b"a ledger was begun here\n"
"""In the lock file from the first opening on: a ledger that is empty or gone after that was lost, and is not begun anew."""

_SCHEMA: Final = f"""
CREATE TABLE chains (
  chain INTEGER PRIMARY KEY,
  instance TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE records (
  position INTEGER PRIMARY KEY,
  chain INTEGER NOT NULL REFERENCES chains,
  sequence INTEGER NOT NULL,
  previous_hash BLOB NOT NULL,
  hash BLOB NOT NULL,
  body BLOB NOT NULL,
  UNIQUE (chain, sequence)
) STRICT;
CREATE TABLE data_keys (
  key_id TEXT PRIMARY KEY,
  day TEXT NOT NULL
) STRICT;
CREATE TABLE wrapped_keys (
  key_id TEXT NOT NULL REFERENCES data_keys ON DELETE CASCADE,
  recipient BLOB NOT NULL,
  ciphertext BLOB NOT NULL,
  PRIMARY KEY (key_id, recipient)
) STRICT;
CREATE TABLE inputs (
  instance TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  key_id TEXT NOT NULL REFERENCES data_keys ON DELETE CASCADE,
  nonce BLOB NOT NULL,
  ciphertext BLOB NOT NULL,
  PRIMARY KEY (instance, sequence)
) STRICT;
CREATE INDEX inputs_by_key ON inputs (key_id);
CREATE TRIGGER records_stay BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER records_remain BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

_LATER: Final = "See to the disk and the permissions of its folder, then start again: nothing else has to be done."


def hold(path: Path) -> int:
    """Takes the ledger for this process: a descriptor of `<path>.lock`, locked until it is closed.

    The lock has a file of its own: closing any descriptor of the ledger itself would drop SQLite's own locks on it.

    Raises:
        LedgerUnusableError: another process has it, or its folder is not there.
    """
    try:
        descriptor = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise _cannot_be_made(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LedgerUnusableError(
            f"{path} is the ledger of another running gateway. Stop that one, or give this one a file of its own."
        ) from error
    return descriptor


def prepare(path: Path) -> None:
    """Makes the file, readable and writable for its owner only, or checks that the one that is there is no more open.

    Raises:
        LedgerUnusableError: others may read or write it, or it is not a file.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY))
    except FileExistsError:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise LedgerUnusableError(f"{path} is not a file; name the ledger's file.") from None
        if stat.S_IMODE(mode) & ~OWNER_ONLY:
            raise LedgerUnusableError(
                f"{path} has mode {stat.S_IMODE(mode):04o}: others can read or write the ledger. chmod 600 it."
            ) from None
    except OSError as error:
        raise _cannot_be_made(path, error) from error


def marked(hold: int) -> bool:
    """Whether a ledger was begun here before, by the descriptor that `hold` gave."""
    return os.fstat(hold).st_size > 0


def mark(path: Path, hold: int) -> None:
    """Notes in the lock file that there is a ledger now.

    Raises:
        LedgerUnusableError: the disk is full, or worse.
    """
    try:
        if not marked(hold):
            os.pwrite(hold, MARK, 0)
            os.fsync(hold)
    except OSError as error:
        raise LedgerUnusableError(f"{_lock_of(path)} cannot be written: {error.strerror}. {_LATER}") from error


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """What SQLite says in the block, as the ledger's error: try again later, restore a copy, or name another file.

    Raises:
        LedgerUnusableError: see there.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        # A full disk, a failing one, no permission: the file may be as good as ever, so nobody is sent to another one.
        raise LedgerUnusableError(f"{path} cannot be used now: {error}. {_LATER}") from error
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:  # the extended codes as well
            raise LedgerUnusableError(
                f"{path} is damaged: {error}. Restore it from a copy; this one was not touched."
            ) from error
        raise LedgerUnusableError(
            f"{path} is not a ledger: {error}. Name another file; this one was not touched."
        ) from error


def recognise(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    """Checks that the open file is a ledger of a version that this program knows; with `create` an empty one becomes one.

    Raises:
        LedgerUnusableError: empty, another program's file, a newer version's, not a database, or a disk that fails.
    """
    with usable(path):
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        empty = (application, version, tables) == (0, 0, 0)
        if create and empty:
            connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
            return
    if empty:
        raise LedgerUnusableError(
            f"{path} is empty: what it held is lost. Restore it from a copy; or delete {_lock_of(path).name} as well, to begin"
            " anew without it."
        )
    if application != APPLICATION_ID:
        raise LedgerUnusableError(f"{path} is another program's file. Name another; this one was not touched.")
    if version > SCHEMA_VERSION:
        raise LedgerUnusableError(
            f"{path} has schema {version}, this program knows {SCHEMA_VERSION}: a newer stepgrant wrote it. Run that one."
        )
    if version != SCHEMA_VERSION:
        raise LedgerUnusableError(f"{path} has schema {version}, which no stepgrant wrote. Restore it from a copy.")


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _cannot_be_made(path: Path, error: OSError) -> LedgerUnusableError:
    next_ = "Make its folder, or name another." if isinstance(error, FileNotFoundError) else _LATER
    return LedgerUnusableError(f"{path} cannot be made: {error.strerror}. {next_}")
