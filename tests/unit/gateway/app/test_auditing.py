"""What the ledger says: that it holds, in sum, and event by event."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from stepgrant_gateway.app.auditing import opening, read_all, show, summarise, verify_ledger
from stepgrant_gateway.app.writing import ChainWriter
from stepgrant_gateway.core.chain import Witness
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import ChainHead, Record
from stepgrant_gateway.storage.inputs import InputOpener, RecipientSealer, make_recipient, recipient_from_pem
from stepgrant_gateway.storage.memory import MemoryLedger
from tests.kit.chains import (
    INSTANCE,
    OTHER,
    TASK,
    THIRD,
    chain_of,
    counted_entropy,
    ended,
    granted,
    head_of,
    started,
    step_id,
)
from tests.kit.clock import START

STOPPED = Event(EventType.GATEWAY_STOPPED, START + timedelta(minutes=1), {})
FIRST = chain_of(started(), granted(1), ended(1), STOPPED)
SECOND = chain_of(started([head_of(FIRST)]), granted(2), ended(2, state="revoked"), instance=OTHER)


def holding(*chains: list[Record]) -> MemoryLedger:
    """A store with these very records, whether or not they hold."""
    store = MemoryLedger()
    for chain in chains:
        store._chains[chain[0].instance_id] = list(chain)
    return store


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_ledger_that_holds_says_so_chain_by_chain():
    verified = verify_ledger(holding(FIRST, SECOND), [Witness(head_of(SECOND), "a signed checkpoint")])
    assert [(chain.head, chain.stopped) for chain in verified.chains] == [
        (head_of(FIRST), True),
        (head_of(SECOND), False),
    ]
    assert (verified.events, verified.witnesses) == (7, 1)
    assert (verified.chains[0].first_at, verified.chains[0].last_at) == (START, STOPPED.at)


def test_an_empty_ledger_holds():
    assert verify_ledger(MemoryLedger()).events == 0


@pytest.mark.parametrize(
    ("chains", "wrong"),
    [
        ((FIRST[:3], SECOND), f"{INSTANCE}: record 4 is missing: the chain of {OTHER} remembers 4 records"),
        ((SECOND,), f"{INSTANCE}: record 1 is missing: the chain of {OTHER} remembers 4 records"),
        ((FIRST, [SECOND[0], replace(SECOND[1], body=FIRST[1].body), SECOND[2]]), f"{OTHER}: record 2 was changed"),
        ((chain_of(started(), granted(9), ended(9), STOPPED), SECOND), f"{INSTANCE}: record 4 is not the record"),
        ((FIRST[1:], SECOND), f"{INSTANCE}: record 1 is missing"),
    ],
    ids=["an end cut", "a chain gone", "a body changed", "a chain written anew", "a beginning cut"],
)
def test_inv_14_later_chains_are_witnesses_of_earlier_ones(chains, wrong):
    store = holding(*chains)
    with pytest.raises(LedgerBrokenError, match=wrong):
        verify_ledger(store)
    with pytest.raises(LedgerBrokenError, match=wrong):
        list(read_all(store))


def test_inv_14_a_checkpoint_of_a_chain_that_is_gone_is_a_break():
    with pytest.raises(LedgerBrokenError, match=f"{THIRD}: record 1 is missing: a checkpoint remembers 5"):
        verify_ledger(holding(FIRST), [Witness(ChainHead(THIRD, 5, bytes(32)), "a checkpoint")])


def test_reading_gives_every_event_with_its_place():
    read = list(read_all(holding(FIRST, SECOND)))
    assert [(item.instance_id, item.sequence) for item in read] == [
        *((INSTANCE, number) for number in range(1, 5)),
        *((OTHER, number) for number in range(1, 4)),
    ]


def test_long_chains_are_read_in_pages_to_their_end():
    chain = chain_of(started(), *(ended(number % 9) for number in range(2500)))
    assert verify_ledger(holding(chain)).events == 2501


def renewed(number: int, seconds: float, ttl: int = 30) -> Event:
    return replace(granted(number, at=at(seconds), ttl=timedelta(seconds=ttl)), type=EventType.STEP_RENEWED)


def denied(kind: EventType, code: str) -> Event:
    return Event(kind, START, {"task": TASK, "code": code})


def test_the_summary_counts_what_happened_and_adds_up_how_long_grants_were_held():
    chain = chain_of(
        started(),
        Event(EventType.TASK_OPENED, START, {"task": TASK}),
        granted(1),
        ended(1, at=at(4)),  # 4 s
        granted(2),
        renewed(2, 20),  # superseded after 20 s
        ended(2, at=at(25), state="revoked"),  # 5 s
        granted(3),
        ended(3, at=at(99), state="expired"),  # 30 s: never longer than its exp
        granted(4, ttl=timedelta(seconds=10)),  # 10 s: its gateway was killed
        denied(EventType.STEP_DENIED, "no_permit"),
        denied(EventType.STEP_DENIED, "no_permit"),
        denied(EventType.TASK_DENIED, "locked"),
        Event(EventType.GRANT_REDEEMED, START, {"task": TASK}),
        Event(EventType.LOCK_SET, START, {}),
    )
    summary = summarise(holding(chain))
    assert (summary.tasks, summary.tasks_denied, summary.steps_granted, summary.steps_denied) == (1, 1, 4, 2)
    assert (summary.grants, summary.redemptions, summary.locks, summary.events) == (5, 1, 1, 15)
    assert summary.held == timedelta(seconds=69)
    assert summary.ends == {"completed": 1, "expired": 1, "revoked": 1}
    assert summary.denials == {"locked": 1, "no_permit": 2}


def test_an_event_without_what_its_type_holds_is_named_not_skipped():
    with pytest.raises(LedgerBrokenError, match=r"record 2 is a step\.granted without"):
        summarise(holding(chain_of(started(), replace(granted(1), data={"task": TASK}))))


def test_showing_filters_by_task_and_type_and_keeps_the_last():
    store = holding(FIRST, SECOND)
    assert len(list(show(store))) == 7
    assert [line["sequence"] for line in show(store, task=TASK)] == [2, 3, 2, 3]
    assert [line["type"] for line in show(store, types=frozenset({EventType.STEP_GRANTED}))] == ["step.granted"] * 2
    assert [(line["instance"], line["sequence"]) for line in show(store, task=TASK, limit=1)] == [(OTHER, 3)]
    assert list(show(store, task=THIRD)) == []


def test_a_line_is_plain_json_with_its_time_in_utc():
    line = next(show(holding(FIRST), task=TASK, limit=2))
    assert line["at"] == "2026-11-21T12:00:00.000000Z"
    assert line["data"]["step"] == step_id(1)
    assert line["input_sha256"] == "00" * 32
    assert "input" not in line


def test_with_a_recipients_key_the_inputs_are_shown_until_they_expire():
    private, public = make_recipient()
    store = MemoryLedger()
    sealer = RecipientSealer([recipient_from_pem(public)], counted_entropy())
    ChainWriter(store, sealer, INSTANCE).write([[started()], [granted(1)], [ended(1)]])
    open_input = opening(store.input_of, InputOpener(private).open)
    lines = list(show(store, open_input=open_input))
    assert [line.get("input") for line in lines] == [None, {"arguments": {"order_id": "ord_00000042"}}, None]
    store.expire(START.date() + timedelta(days=1))
    assert all("input" not in line for line in show(store, open_input=open_input))
    assert verify_ledger(store).events == 3
