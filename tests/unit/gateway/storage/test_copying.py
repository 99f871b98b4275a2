"""A copy of a ledger that its gateway goes on writing."""

from __future__ import annotations

import stat
from contextlib import closing

import pytest

from stepgrant_gateway.app.auditing import verify_ledger
from stepgrant_gateway.core.errors import LedgerUnusableError
from stepgrant_gateway.storage.copying import copy_ledger
from stepgrant_gateway.storage.sqlite import SqliteLedger, SqliteLedgerReader
from tests.kit.heart import heart

ORDER = {"order_id": "ord_00000042"}


def events(path) -> int:
    with closing(SqliteLedgerReader(path)) as reader:
        return verify_ledger(reader).events


async def test_a_copy_holds_everything_that_was_durable_and_the_gateway_goes_on(tmp_path):
    ledger, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    store = SqliteLedger(ledger)
    async with heart(store) as built:
        lease = await built.open()
        await built.granted(lease, "orders.get", ORDER)
        copy_ledger(ledger, copy)
        await built.granted(lease, "orders.get", ORDER)
    store.close()

    assert (events(copy), events(ledger)) == (3, 5)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    SqliteLedger(copy).close()


def test_what_is_no_ledger_or_would_be_written_over_is_refused_and_nothing_is_left(tmp_path):
    other, there, to = tmp_path / "notes.db", tmp_path / "there.db", tmp_path / "copy.db"
    other.write_bytes(b"not a database" * 100)
    there.write_bytes(b"precious")
    SqliteLedger(tmp_path / "ledger.db").close()

    for ledger, wanted in ((other, to), (tmp_path / "gone.db", to), (tmp_path / "ledger.db", there)):
        with pytest.raises(LedgerUnusableError):
            copy_ledger(ledger, wanted)
    assert not to.exists()
    assert there.read_bytes() == b"precious"
