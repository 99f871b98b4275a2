"""INV-14: any edit of a chain is found, and at its place."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant_gateway.core.chain import Witness, verify_chain
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.ledger import Record, record_hash
from tests.kit.chains import INSTANCE, OTHER, chain_of, ended, granted, head_of, started

LENGTH = 9
CHAIN = chain_of(started(), *(event for number in range(4) for event in (granted(number), ended(number))))
WITNESS = Witness(head_of(CHAIN), "a checkpoint")


def place_of(records: list[Record]) -> int:
    """Where the first thing wrong is, or a failed test."""
    with pytest.raises(LedgerBrokenError) as caught:
        verify_chain(INSTANCE, records, witnesses=[WITNESS])
    found = re.search(r": record (\d+) ", str(caught.value))
    assert found is not None
    return int(found[1])


@given(st.data(), st.integers(0, LENGTH - 1), st.sampled_from(["body", "hash", "previous_hash"]))
def test_a_changed_byte_is_found_in_its_record(data, index, field):
    value = getattr(CHAIN[index], field)
    position = data.draw(st.integers(0, len(value) - 1))
    flipped = value[:position] + bytes([value[position] ^ data.draw(st.integers(1, 255))]) + value[position + 1 :]
    records = [*CHAIN]
    records[index] = replace(CHAIN[index], **{field: flipped})
    assert place_of(records) == index + 1


@given(st.integers(0, LENGTH - 1), st.integers(0, 2**63 - 1).filter(lambda number: number > LENGTH) | st.just(0))
def test_a_changed_sequence_is_found_in_its_record(index, sequence):
    records = [*CHAIN]
    records[index] = replace(CHAIN[index], sequence=sequence)
    assert place_of(records) == index + 1


@given(st.integers(0, LENGTH - 1))
def test_a_record_of_another_chain_is_found_in_its_place(index):
    records = [*CHAIN]
    records[index] = replace(CHAIN[index], instance_id=OTHER)
    assert place_of(records) == index + 1


@given(st.integers(0, LENGTH - 1), st.binary(min_size=1, max_size=40))
def test_a_record_that_was_changed_and_hashed_anew_is_found_there_or_at_the_next(index, tail):
    record = replace(CHAIN[index], body=CHAIN[index].body + tail)
    forged = replace(record, hash=record_hash(INSTANCE, record.sequence, record.previous_hash, record.body))
    records = [*CHAIN[:index], forged, *CHAIN[index + 1 :]]
    assert place_of(records) in {index + 1, index + 2}


@given(st.integers(0, LENGTH - 1), st.integers(1, LENGTH))
def test_records_that_were_removed_are_missed_at_their_place(index, count):
    assert place_of(CHAIN[:index] + CHAIN[index + count :]) == index + 1


@given(st.integers(0, LENGTH), st.integers(0, LENGTH - 1))
def test_a_record_that_was_put_in_is_found_in_its_place(index, copied):
    if index == LENGTH and copied == LENGTH - 1:
        copied = 0
    records = [*CHAIN[:index], CHAIN[copied], *CHAIN[index:]]
    first = next((at for at, record in enumerate(records) if at >= LENGTH or record != CHAIN[at]), None)
    assert first is not None
    assert place_of(records) == first + 1


@given(st.permutations(range(LENGTH)).filter(lambda order: order != list(range(LENGTH))))
def test_another_order_is_found_at_the_first_record_out_of_place(order):
    first = next(at for at, index in enumerate(order) if at != index)
    assert place_of([CHAIN[index] for index in order]) == first + 1
