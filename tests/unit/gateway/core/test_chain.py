"""A chain is verified in numbered steps, and what is wrong is found at its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepgrant_gateway.core.chain import (
    Witness,
    chain_links,
    checkpoint_message,
    follow_chain,
    verify_chain,
    verify_checkpoint,
)
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import ChainHead, Record, chained, record_hash
from stepgrant_gateway.core.revocation import Checkpoint
from tests.kit.chains import INSTANCE, OTHER, chain_of, ended, granted, head_of, started
from tests.kit.clock import START

CHAIN = chain_of(started(), granted(1), ended(1), granted(2), ended(2), Event(EventType.GATEWAY_STOPPED, START, {}))
HEAD = head_of(CHAIN)


def rehashed(record: Record, **changes: object) -> Record:
    """The record as a forger leaves it: changed, and its own hash made good again."""
    record = replace(record, **changes)  # type: ignore[arg-type] # fields by name
    return replace(record, hash=record_hash(record.instance_id, record.sequence, record.previous_hash, record.body))


def test_an_untouched_chain_holds_and_says_how_far_it_goes():
    verified = verify_chain(INSTANCE, CHAIN, witnesses=[Witness(HEAD, "a checkpoint")])
    assert (verified.head, verified.events, verified.stopped) == (HEAD, 6, True)
    assert not verify_chain(INSTANCE, CHAIN[:5]).stopped


OTHER_BODY = chain_of(started(), granted(9))[1].body


@pytest.mark.parametrize(
    ("records", "sequence", "wrong"),
    [
        ([], 1, "the chain is empty"),
        (CHAIN[1:], 1, "missing or out of order: 2 follows"),
        (CHAIN[:2] + CHAIN[3:], 3, "missing or out of order: 4 follows"),
        ([CHAIN[0], CHAIN[2], CHAIN[1], *CHAIN[3:]], 2, "missing or out of order: 3 follows"),
        (CHAIN[:3] + CHAIN[2:], 4, "missing or out of order: 3 follows"),
        ([*CHAIN[:2], replace(CHAIN[2], body=OTHER_BODY), *CHAIN[3:]], 3, "its hash is not that of its bytes"),
        ([*CHAIN[:2], rehashed(CHAIN[2], body=OTHER_BODY), *CHAIN[3:]], 4, "does not name the record before it"),
        ([*CHAIN[:2], replace(CHAIN[2], hash=bytes(32)), *CHAIN[3:]], 3, "its hash is not that of its bytes"),
        ([*CHAIN[:2], rehashed(CHAIN[2], previous_hash=bytes(32)), *CHAIN[3:]], 3, "does not name the record before"),
        ([*CHAIN[:2], rehashed(CHAIN[2], instance_id=OTHER), *CHAIN[3:]], 3, f"holds a record of {OTHER}"),
        (chain_of(granted(1)), 1, "breaks the rule that the first event"),
        (chain_of(started(), started()), 2, "breaks the rule that the first event"),
        ([CHAIN[0], chained(head_of(CHAIN[:1]), b'{"schema":1,"type":"new","at":1,"data":{}}')], 2, "unknown type"),
    ],
)  # fmt: skip
def test_inv_14_what_was_changed_left_out_put_in_or_moved_is_found_at_its_place(records, sequence, wrong):
    with pytest.raises(LedgerBrokenError, match=wrong) as caught:
        verify_chain(INSTANCE, records)
    assert f"instance {INSTANCE}: record {sequence} " in str(caught.value)


def test_inv_14_an_end_that_was_cut_is_found_against_a_checkpoint():
    with pytest.raises(LedgerBrokenError, match="record 5 is missing: a checkpoint remembers 6 records"):
        verify_chain(INSTANCE, CHAIN[:4], witnesses=[Witness(HEAD, "a checkpoint")])


def test_inv_14_a_chain_written_anew_is_found_against_a_checkpoint_of_its_middle():
    forged = [*CHAIN[:3], *chain_of(granted(7), ended(7), after=head_of(CHAIN[:3]))]
    verify_chain(INSTANCE, forged)
    with pytest.raises(LedgerBrokenError, match="record 4 is not the record that a checkpoint remembers"):
        verify_chain(INSTANCE, forged, witnesses=[Witness(head_of(CHAIN[:4]), "a checkpoint")])


def test_a_witness_of_another_chain_says_nothing_about_this_one():
    verify_chain(INSTANCE, CHAIN, witnesses=[Witness(ChainHead(OTHER, 99, bytes(32)), "a checkpoint")])


def test_events_before_the_break_are_given_out_and_none_after_it():
    given = []
    with pytest.raises(LedgerBrokenError):
        given.extend(stored.sequence for stored in follow_chain(INSTANCE, CHAIN[:2] + CHAIN[3:]))
    assert given == [1, 2]


def test_a_chain_can_be_followed_from_a_head_that_was_verified_before():
    assert [stored.sequence for stored in follow_chain(INSTANCE, CHAIN[3:], after=head_of(CHAIN[:3]))] == [4, 5, 6]


def test_a_start_names_the_heads_that_it_found():
    first = next(follow_chain(OTHER, chain_of(started([HEAD]), instance=OTHER)))
    assert chain_links(first) == (HEAD,)


@pytest.mark.parametrize(
    "heads", [None, [1], [{"instance": INSTANCE}], [{"instance": "x", "sequence": 1, "hash": "0" * 64}],
              [{"instance": INSTANCE, "sequence": 0, "hash": "0" * 64}], [{"instance": INSTANCE, "sequence": 1, "hash": ""}]],
)  # fmt: skip
def test_a_start_that_names_no_heads_is_refused(heads):
    event = Event(EventType.GATEWAY_STARTED, START, {} if heads is None else {"heads": heads})
    with pytest.raises(LedgerBrokenError):
        chain_links(next(follow_chain(INSTANCE, chain_of(event))))


def test_a_checkpoint_counts_only_once_its_signature_holds():
    checkpoint = Checkpoint(INSTANCE, HEAD.sequence, HEAD.hash, (b"leaf",), b"signature")
    checked = []

    def accept(chain, message, signature):
        checked.append((chain, message, signature))

    assert verify_checkpoint(checkpoint, accept).head == HEAD
    assert checked == [((b"leaf",), checkpoint_message(HEAD), b"signature")]

    def refuse(chain, message, signature):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        verify_checkpoint(checkpoint, refuse)
