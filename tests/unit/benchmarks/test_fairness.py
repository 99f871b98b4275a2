"""Books of clients held against the ledger."""

import pytest
from fairness import Book, UnfairError, check

from stepgrant_gateway.core.events import Event, EventType
from tests.kit.clock import START


def granted(grant: str, step: str) -> Event:
    return Event(EventType.STEP_GRANTED, START, {"grant": grant, "task": "t", "step": step})


def ended(step: str) -> Event:
    return Event(EventType.STEP_ENDED, START, {"task": "t", "step": step})


def told() -> tuple[Book, Book]:
    return Book({"g1": "s1"}, ["s1"]), Book({"g2": "s2"}, ["s2"])


ON_RECORD = (granted("g1", "s1"), granted("g2", "s2"), ended("s1"), ended("s2"))


def test_what_clients_were_told_and_what_is_on_record_is_the_same():
    check(ON_RECORD, told())


@pytest.mark.parametrize(
    ("events", "what"),
    [
        ((*ON_RECORD, granted("g3", "s1")), "granted or ended 2 and 1 times"),
        ((*ON_RECORD, ended("s2")), "granted or ended 1 and 2 times"),
        (ON_RECORD[:3], "not both"),
        ((ON_RECORD[0], ON_RECORD[2]), "1 grants are not on record, 0 were never heard of"),
        ((*ON_RECORD, granted("g4", "s4"), ended("s4")), "0 grants are not on record, 1 were never heard of"),
    ],
)
def test_whatever_is_lost_or_twice_is_noticed(events, what):
    with pytest.raises(UnfairError, match=what):
        check(events, told())


def test_a_report_without_an_answer_is_noticed():
    with pytest.raises(UnfairError, match="1 steps were granted, and their report had no answer"):
        check(ON_RECORD, (Book({"g1": "s1", "g2": "s2"}, ["s2"]),))
