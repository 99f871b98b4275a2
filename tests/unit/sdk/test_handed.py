"""Slips: what one workload hands to another is read back as it was, and anything else is refused."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.errors import InvalidInputError
from stepgrant.handed import MAX_SLIP_BYTES, Assignment, HandOff
from stepgrant.intent import Json, canonical

GOOD = Assignment(
    "01KAJ7RM000000000000ASSGNT",
    "Refund",
    {"order_id": "ord_00000042", "amount": Decimal("98.7"), "to": ["jo@x.org"]},
    "INC-4711, für Jo",
    b"t" * 32,
)
MEMBERS: dict[str, Json] = {
    "id": GOOD.id,
    "task_type": "Refund",
    "parameters": {"order_id": "ord_00000042"},
    "purpose": "",
    "ticket": "74" * 32,
}


def slip(**changed: Json) -> str:
    return written(canonical({**MEMBERS, **changed}))


def written(text: bytes) -> str:
    return "stepgrant-assignment-1." + urlsafe_b64encode(text).rstrip(b"=").decode()


def test_what_is_handed_over_is_read_as_it_was() -> None:
    text = GOOD.slip()
    assert text.isascii()
    assert len(text.split()) == 1
    assert Assignment.read(text) == GOOD


def test_a_hand_off_is_handed_over_alike_and_is_no_assignment() -> None:
    hand_off = HandOff(GOOD.id, GOOD.task_type, GOOD.parameters, GOOD.purpose, GOOD.ticket)
    assert HandOff.read(hand_off.slip()) == hand_off
    assert "ttt" not in repr(hand_off)
    assert hand_off != GOOD
    with pytest.raises(InvalidInputError, match="no slip of an assignment, which begins with stepgrant-assignment-1"):
        Assignment.read(hand_off.slip())
    with pytest.raises(InvalidInputError, match="no slip of a hand-off, which begins with stepgrant-hand-off-1"):
        HandOff.read(GOOD.slip())


def test_neither_ticket_nor_parameters_stand_in_the_repr() -> None:
    assert "ttt" not in repr(GOOD)
    assert "jo@x.org" not in repr(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Refund",
        "stepgrant-assignment-1.",
        "stepgrant-assignment-1.!",
        slip() + "\n",
        slip() + "=",
        slip().replace("-1.", "-2."),
        written(b"\xff"),
        written(b"[]"),
        written(b'{"id":1,"id":2}'),
        written(b" " * (MAX_SLIP_BYTES + 1)),
        slip(more=Decimal(1)),
        slip(id="x"),
        slip(task_type="no name"),
        slip(parameters=[]),
        slip(purpose="p" * 1025),
        slip(ticket="74" * 31),
        slip(ticket="7T" * 32),
    ],
)
def test_what_is_no_slip_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Assignment.read(text)
    assert len(str(refused.value)) < 200
    assert "7474" not in str(refused.value)


@given(st.text() | st.binary().map(written) | st.text().map(lambda text: written(text.encode("utf-8", "replace"))))
def test_whatever_is_handed_over_is_read_or_refused(text: str) -> None:
    with suppress(InvalidInputError):
        Assignment.read(text)
