"""What `stepgrant doctor --config` finds of a ledger that the application has written."""

from __future__ import annotations

import fcntl
import re
from datetime import timedelta

import pytest

from stepgrant_gateway.cli.checks import State
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.records import TOO_LITTLE, examine_ledger, lock_of
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History
from stepgrant_gateway.core.snapshot import encode_snapshot
from stepgrant_gateway.storage.snapshots import SnapshotFiles
from stepgrant_gateway.storage.sqlite import SqliteLedger, SqliteLedgerReader
from tests.kit.clock import START
from tests.kit.heart import heart, support_policy

PLENTY = 10**15
DIGEST = support_policy().digest
NOW = START + timedelta(minutes=20)


@pytest.fixture
async def ledger(tmp_path):
    """A ledger of ten minutes, of a gateway that has stopped."""
    path = tmp_path / "ledger.db"
    store = SqliteLedger(path)
    async with heart(store) as built:
        await built.journal.record(built.operating.activation(support_policy(), "gateway")).durable()
        lease = await built.open()
        for _ in range(10):
            built.clock.advance(timedelta(minutes=1))
            await built.granted(lease, "orders.search", {"query": "shoes"})
    store.close()
    return path


def checks(path, *, digest=DIGEST, now=NOW, free=PLENTY):
    return {check.name: check for check in examine_ledger(path, digest, lambda: now, free=lambda folder: free)}


def test_a_ledger_in_order_is_ok_throughout(ledger):
    found = checks(ledger)

    assert {name: check.state for name, check in found.items()} == dict.fromkeys(
        ("ledger's lock", "disk space", "clock and ledger", "snapshot", "active policy"), State.OK
    )
    assert "no gateway holds it" in found["ledger's lock"].says
    assert "was made 9 min 59 s ago" in found["clock and ledger"].says


def test_a_ledger_that_is_not_there_yet_has_space_or_not(tmp_path):
    found = checks(tmp_path / "ledger.db")

    assert list(found) == ["ledger's lock", "disk space"]
    assert list(tmp_path.iterdir()) == []


async def test_ds_07_a_disk_is_foreseen_to_be_full_before_it_is(tmp_path):
    """Two megabytes a minute: 100 GiB last for weeks, 10 GiB do not, and the last megabytes are an alarm by themselves."""
    path = tmp_path / "ledger.db"
    store = SqliteLedger(path)
    async with heart(store) as built:
        for _ in range(32):
            refused = Event(EventType.POLICY_REFUSED, built.clock.now(), {"findings": ["f" * 60_000]})
            await built.journal.record(refused).durable()
            built.clock.advance(timedelta(seconds=2))
    store.close()

    found = [checks(path, free=free)["disk space"] for free in (100 * 1024**3, 10 * 1024**3, TOO_LITTLE - 1)]

    assert [check.state for check in found] == [State.OK, State.WARNING, State.FAILED]
    assert [re.search("full in ([0-9]+ d)", check.says)[1] for check in found[:2]] == ["39 d", "3 d"]
    assert found[2].exit is Exit.UNAVAILABLE


def test_a_clock_behind_the_last_record_has_failed_since_nothing_is_granted_then(ledger):
    """INV-04: deadlines and `exp` are only as good as the clock."""
    found = checks(ledger, now=START + timedelta(minutes=5))["clock and ledger"]

    assert (found.state, found.exit) == (State.FAILED, Exit.UNAVAILABLE)
    assert "5 min 0 s behind" in found.says


def test_a_running_gateway_is_seen_by_its_lock_and_one_that_was_killed_by_its_log(ledger):
    with lock_of(ledger).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert checks(ledger)["ledger's lock"].says == "a gateway holds it"
    ledger.with_name("ledger.db-wal").write_bytes(b"x" * 4096)
    assert "was killed" in checks(ledger)["ledger's lock"].says


def test_looking_at_the_lock_keeps_no_gateway_from_starting_afterwards(ledger):
    checks(ledger)
    SqliteLedger(ledger).close()


@pytest.mark.parametrize("gone", [True, False])
def test_a_ledger_that_was_lost_has_failed_and_says_what_comes_back_with_a_copy(ledger, gone):
    """INV-11: it is not begun anew."""
    ledger.unlink()
    if not gone:
        ledger.touch(0o600)

    found = checks(ledger)

    assert [(name, check.state, check.exit) for name, check in found.items()] == [
        ("ledger's lock", State.FAILED, Exit.UNAVAILABLE)
    ]
    assert "restore it from a copy" in found["ledger's lock"].todo


def test_a_directory_that_the_gateway_has_not_loaded_is_a_warning_while_it_runs(ledger):
    assert checks(ledger, digest="sha256:" + "0" * 64)["active policy"].state is State.OK
    with lock_of(ledger).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = checks(ledger, digest="sha256:" + "0" * 64)["active policy"]
    assert (found.state, found.command) == (State.WARNING, "stepgrant policy reload")


def test_a_snapshot_of_another_ledger_is_a_warning_and_one_of_this_says_how_much_is_read(ledger):
    reader = SqliteLedgerReader(ledger)
    head = reader.heads()[0]
    reader.close()
    SnapshotFiles(ledger).keep(encode_snapshot([head], History()))
    assert "the next start reads 0 records of" in checks(ledger)["snapshot"].says

    other = type(head)(head.instance_id, head.sequence, bytes(32))
    SnapshotFiles(ledger).keep(encode_snapshot([other], History()))
    found = checks(ledger)["snapshot"]
    assert (found.state, "of another ledger" in found.says) == (State.WARNING, True)
    assert found.command.startswith("rm ")


def test_records_that_do_not_verify_have_failed(ledger):
    """INV-14, as far as a look at the end shows it."""
    data = bytearray(ledger.read_bytes())
    place = data.rfind(b"orders.search")
    data[place : place + 6] = b"orderz"
    ledger.write_bytes(data)

    found = checks(ledger)["ledger's records"]

    assert (found.state, found.exit) == (State.FAILED, Exit.BROKEN)
    assert found.command == f"stepgrant audit verify {ledger}"
