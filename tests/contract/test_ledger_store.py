"""What every ledger engine does: one suite for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from stepgrant_gateway.core.chain import verify_chain
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import ChainHead, DataKey, Record, SealedInput, WrappedKey
from stepgrant_gateway.storage.memory import MemoryLedger
from stepgrant_gateway.storage.sqlite import SqliteLedger
from tests.kit.chains import INSTANCE, OTHER, chain_of, ended, granted, head_of, started
from tests.kit.clock import START

Engine = MemoryLedger | SqliteLedger

CHAIN = chain_of(started(), granted(1), ended(1), granted(2), ended(2))
SECOND = chain_of(started([head_of(CHAIN)]), granted(3), instance=OTHER)
MONDAY, TUESDAY = date(2026, 11, 16), date(2026, 11, 17)


def key(name: str, day: date) -> DataKey:
    return DataKey(name, day, (WrappedKey(b"r" * 32, b"wrapped " + name.encode()), WrappedKey(b"s" * 32, b"again")))


def sealed(record: Record, key_id: str) -> SealedInput:
    return SealedInput(record.instance_id, record.sequence, key_id, b"n" * 12, b"sealed %d" % record.sequence)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engines: dict[str, Callable[[], Engine]] = {
        "memory": MemoryLedger,
        "sqlite": lambda: SqliteLedger(tmp_path / "ledger.db"),
    }
    engine = engines[request.param]()
    yield engine
    engine.close()


def test_an_empty_store_has_no_chain(store):
    assert list(store.heads()) == []
    assert list(store.read(INSTANCE, 0, 10)) == []
    assert store.input_of(INSTANCE, 1) is None


def test_what_was_appended_is_read_back_byte_for_byte_and_verifies(store):
    store.append(CHAIN[:2], [])
    store.append(CHAIN[2:], [])
    assert list(store.read(INSTANCE, 0, 100)) == CHAIN
    assert verify_chain(INSTANCE, store.read(INSTANCE, 0, 100)).head == head_of(CHAIN)


def test_reading_goes_on_after_a_sequence_and_stops_at_the_limit(store):
    store.append(CHAIN, [])
    assert [record.sequence for record in store.read(INSTANCE, 1, 2)] == [2, 3]
    assert [record.sequence for record in store.read(INSTANCE, 3, 100)] == [4, 5]
    assert list(store.read(INSTANCE, 5, 100)) == []


def test_every_chain_has_its_head_in_the_order_of_their_beginning(store):
    store.append(CHAIN[:1], [])
    store.append(SECOND, [])
    store.append(CHAIN[1:], [])
    assert list(store.heads()) == [head_of(CHAIN), head_of(SECOND)]
    assert list(store.read(OTHER, 0, 100)) == SECOND


def test_many_chains_keep_their_order(store):
    names = [f"01KAJ0000000000000000000{a}{b}" for a in "ZYX" for b in "5904"]
    for name in names:
        store.append(chain_of(started(), instance=name), [])
    assert [head.instance_id for head in store.heads()] == names


@pytest.mark.parametrize(
    "wrong",
    [CHAIN[:1], CHAIN[3:], [replace(CHAIN[2], previous_hash=bytes(32))], chain_of(started(), granted(7))],
    ids=["again", "with a gap", "after another record", "another beginning"],
)
def test_inv_14_records_that_do_not_follow_the_head_are_refused_and_nothing_is_stored(store, wrong):
    store.append(CHAIN[:2], [])
    with pytest.raises(LedgerBrokenError, match="does not follow record 2"):
        store.append(wrong, [])
    assert list(store.heads()) == [head_of(CHAIN[:2])]
    store.append(CHAIN[2:], [])


def test_a_chain_that_does_not_begin_at_one_is_refused(store):
    with pytest.raises(LedgerBrokenError, match="does not follow record 0"):
        store.append(CHAIN[1:2], [])
    assert list(store.heads()) == []


def test_an_input_is_given_out_with_the_wrapped_key_of_its_day(store):
    store.append(CHAIN[:3], [sealed(CHAIN[1], "monday")], [key("monday", MONDAY)])
    assert store.input_of(INSTANCE, 2) == (sealed(CHAIN[1], "monday"), key("monday", MONDAY))
    assert store.input_of(INSTANCE, 3) is None


def test_a_key_that_is_there_already_stays_as_it_is(store):
    store.append(CHAIN[:2], [sealed(CHAIN[1], "monday")], [key("monday", MONDAY)])
    other = replace(key("monday", MONDAY), wrapped=(WrappedKey(b"x" * 32, b"other"),))
    store.append(CHAIN[2:4], [sealed(CHAIN[3], "monday")], [other])
    assert store.input_of(INSTANCE, 2) == (sealed(CHAIN[1], "monday"), key("monday", MONDAY))
    assert store.input_of(INSTANCE, 4) == (sealed(CHAIN[3], "monday"), key("monday", MONDAY))


def test_expiry_destroys_keys_and_inputs_of_earlier_days_and_breaks_no_chain(store):
    store.append(CHAIN[:2], [sealed(CHAIN[1], "monday")], [key("monday", MONDAY)])
    store.append(CHAIN[2:], [sealed(CHAIN[3], "tuesday")], [key("tuesday", TUESDAY)])
    assert store.expire(MONDAY) == 0
    assert store.expire(TUESDAY) == 1
    assert store.input_of(INSTANCE, 2) is None
    assert store.input_of(INSTANCE, 4) == (sealed(CHAIN[3], "tuesday"), key("tuesday", TUESDAY))
    assert verify_chain(INSTANCE, store.read(INSTANCE, 0, 100)).head == head_of(CHAIN)
    assert store.expire(TUESDAY) == 0


def test_a_key_that_was_destroyed_is_there_again_with_an_input_that_comes_late(store):
    store.append(CHAIN[:2], [sealed(CHAIN[1], "monday")], [key("monday", MONDAY)])
    assert store.expire(TUESDAY) == 1
    store.append(CHAIN[2:4], [sealed(CHAIN[3], "monday")], [key("monday", MONDAY)])
    assert store.input_of(INSTANCE, 2) is None
    assert store.input_of(INSTANCE, 4) == (sealed(CHAIN[3], "monday"), key("monday", MONDAY))


def test_chains_that_take_turns_keep_to_themselves(store):
    for at in range(len(SECOND)):
        store.append(CHAIN[at : at + 1], [])
        store.append(SECOND[at : at + 1], [])
    assert list(store.read(INSTANCE, 0, 10)) == CHAIN[: len(SECOND)]
    assert list(store.read(OTHER, 0, 10)) == SECOND


def test_a_large_batch_is_one_append(store):
    events = [Event(EventType.STEP_ENDED, START + timedelta(seconds=n), {"n": n}) for n in range(500)]
    records = chain_of(started(), *events)
    store.append(records, [])
    assert list(store.heads()) == [ChainHead(INSTANCE, 501, records[-1].hash)]
    assert list(store.read(INSTANCE, 0, 1000)) == records


def test_ids_that_differ_only_in_case_are_different_chains(store):
    assert list(store.read(INSTANCE.lower(), 0, 1)) == []
    store.append(CHAIN, [])
    assert list(store.read(INSTANCE.lower(), 0, 1)) == []
