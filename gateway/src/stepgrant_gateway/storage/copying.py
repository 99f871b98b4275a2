"""A copy of a ledger as it is at one moment, made while its gateway goes on writing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from stepgrant_gateway.core.errors import LedgerUnusableError
from stepgrant_gateway.storage.files import OWNER_ONLY, recognise


def copy_ledger(ledger: Path, to: Path) -> None:
    """Writes the ledger of this moment to a file of its own, for its owner alone and synced; the gateway is not held up.

    One read transaction sees one moment, which copying the files by hand does not: what was committed last stands in the
    log beside the ledger. Nothing is left at `to` if it fails.

    Raises:
        LedgerUnusableError: it is no ledger, `to` is there already, or its disk is full.
    """
    if not ledger.is_file():
        raise LedgerUnusableError(f"{ledger} is not there. Name the ledger's file, as in gateway.toml.")
    try:
        descriptor = os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise LedgerUnusableError(
            f"{to} cannot be made: {error.strerror}. Name a file that is not there yet."
        ) from error
    try:
        with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as reader:
            recognise(reader, ledger, create=False)
            reader.execute("VACUUM INTO ?", (str(to),))
        os.fsync(descriptor)
    except BaseException as error:
        with suppress(OSError):
            to.unlink()
        if isinstance(error, sqlite3.Error | OSError):
            raise LedgerUnusableError(f"{ledger} cannot be copied to {to}: {error}.") from error
        raise
    finally:
        os.close(descriptor)
