"""The writer of one chain: what happens on its thread."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant_gateway.app.writing import ChainWriter, WriterThread
from stepgrant_gateway.core.chain import verify_chain
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.ledger import decode_body
from stepgrant_gateway.storage.inputs import DigestSealer, RecipientSealer, make_recipient, recipient_from_pem
from stepgrant_gateway.storage.memory import MemoryLedger
from tests.kit.chains import INSTANCE, OTHER, THIRD, chain_of, counted_entropy, ended, granted, head_of, started
from tests.kit.clock import START
from tests.kit.faulty_store import FaultyStore

CHAIN = chain_of(started(), granted(1, at=START + timedelta(hours=1)), ended(1))


def writer(store: MemoryLedger | FaultyStore, instance: str = INSTANCE) -> ChainWriter:
    return ChainWriter(store, DigestSealer(counted_entropy()), instance)


def test_batches_become_one_append_in_their_order_and_each_knows_its_last_sequence():
    store = FaultyStore()
    written = writer(store).write([[started()], [granted(1), granted(2)], [], [ended(1)]])
    assert (written.durable, written.sequences, store.appends) == (True, (1, 3, 3, 4), [4])
    verified = verify_chain(INSTANCE, store.read(INSTANCE, 0, 10))
    assert verified.head == written.head


def test_inputs_and_the_key_of_the_day_go_with_their_events():
    store = MemoryLedger()
    sealer = RecipientSealer([recipient_from_pem(make_recipient()[1])], counted_entropy())
    ChainWriter(store, sealer, INSTANCE).write([[started()], [granted(1)], [granted(2), ended(1)]])
    kept = [sequence for sequence in range(1, 5) if store.input_of(INSTANCE, sequence) is not None]
    assert kept == [2, 3]
    digests = [decode_body(record.body)[1] for record in store.read(INSTANCE, 0, 10)]
    assert [digest is not None for digest in digests] == [False, True, True, False]
    assert digests[1] != digests[2], "equal inputs, each with a salt of its own"


def test_an_append_that_stored_nothing_is_found_out_and_the_next_one_takes_its_place():
    store = FaultyStore()
    writing = writer(store)
    writing.write([[started()]])
    store.refuse = True
    refused = writing.write([[granted(1)]])
    assert (refused.durable, refused.sequences, refused.head.sequence) == (False, (None,), 1)
    store.refuse = False
    assert writing.write([[ended(1)]]).sequences == (2,)
    assert verify_chain(INSTANCE, store.read(INSTANCE, 0, 10)).events == 2


def test_an_append_whose_answer_was_lost_is_found_durable():
    store = FaultyStore()
    store.lose_answer = True
    written = writer(store).write([[started(), granted(1)]])
    assert (written.durable, written.sequences) == (True, (2,))


@pytest.mark.parametrize(("stored", "durable", "sequences"), [(True, True, (2,)), (False, False, (None,))])
def test_while_the_store_does_not_say_what_is_durable_the_outcome_is_unknown(stored, durable, sequences):
    store = FaultyStore()
    writing = writer(store)
    writing.write([[started()]])
    store.mute, store.lose_answer, store.refuse = True, stored, not stored
    assert writing.write([[granted(1)]]).durable is None
    assert writing.settle().durable is None
    store.mute = False
    settled = writing.settle()
    assert (settled.durable, settled.sequences) == (durable, sequences)


def test_inv_14_a_chain_that_somebody_else_went_on_with_is_not_written_to_any_more():
    store = FaultyStore()
    writing = writer(store)
    writing.write([[started()]])
    store.inner.append(chain_of(ended(3), after=writing.settle().head), [])
    with pytest.raises(LedgerBrokenError):
        writing.write([[granted(1)]])
    store.refuse = True
    with pytest.raises(LedgerBrokenError, match="did not write there"):
        writing.write([[granted(1)]])


def test_a_batch_that_cannot_be_stored_is_left_out_and_disturbs_no_other():
    store = MemoryLedger()
    bad = replace(granted(1), data={"x": 1.5})
    written = writer(store).write([[started()], [ended(2), bad], [ended(3)]])
    assert (written.sequences, written.invalid) == ((1, None, 2), frozenset({1}))
    assert verify_chain(INSTANCE, store.read(INSTANCE, 0, 10)).events == 2


def test_a_start_names_the_heads_that_no_chain_names_yet_and_the_latest_time():
    store = MemoryLedger()
    first, latest = writer(store).started(START, {"version": "1"})
    assert (dict(first.data), latest) == ({"version": "1", "heads": []}, None)
    store.append(CHAIN, [])
    second, latest = writer(store, OTHER).started(START, {})
    assert second.data == started([head_of(CHAIN)]).data
    assert latest == START, "the time of the last record"
    following = chain_of(second, ended(2), instance=OTHER)
    store.append(following, [])
    third, _ = writer(store, THIRD).started(START, {})
    assert third.data == started([head_of(following)]).data


def test_an_instance_that_has_a_chain_already_does_not_start_again():
    store = MemoryLedger()
    store.append(CHAIN, [])
    with pytest.raises(LedgerBrokenError, match="has a chain already"):
        writer(store).started(START, {})


async def test_the_thread_hands_over_what_was_returned_or_raised_in_order():
    thread, loop = WriterThread("test"), asyncio.get_running_loop()
    heard: asyncio.Queue[object] = asyncio.Queue()
    thread.submit(loop, lambda: "first", heard.put_nowait)
    thread.submit(loop, lambda: int("x"), heard.put_nowait)
    thread.submit(loop, lambda: "third", heard.put_nowait)
    said = [await asyncio.wait_for(heard.get(), 5) for _ in range(3)]
    assert (said[0], type(said[1]), said[2]) == ("first", ValueError, "third")
    thread.stop()
    await asyncio.to_thread(thread._thread.join, 5)
    assert not thread._thread.is_alive()
