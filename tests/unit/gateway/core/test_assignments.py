"""What is kept of an assignment: digests under its ticket, equal for equal words and telling nothing."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from stepgrant.intent import Json
from stepgrant_gateway.core.assignments import Assignment, AssignmentState, ticket_digest, words_digest
from tests.kit.clock import START

TICKET, OTHER = b"t" * 32, b"u" * 32
WORDS: dict[str, Json] = {"order_id": "ord_1", "amount": Decimal("98.7")}


def test_words_are_the_same_however_they_are_ordered_and_under_their_own_ticket_only() -> None:
    again: dict[str, Json] = {"amount": Decimal("98.70"), "order_id": "ord_1"}
    assert words_digest(TICKET, WORDS, "INC-1") == words_digest(TICKET, again, "INC-1")
    others = {
        words_digest(TICKET, WORDS, "INC-1"),
        words_digest(OTHER, WORDS, "INC-1"),
        words_digest(TICKET, WORDS, "INC-2"),
        words_digest(TICKET, {**WORDS, "order_id": "ord_2"}, "INC-1"),
        words_digest(TICKET, {}, ""),
        ticket_digest(TICKET),
        ticket_digest(OTHER),
    }
    assert len(others) == 7


@pytest.mark.parametrize("changed", ["ticket_sha256", "words_sha256", "dispatcher", "workload", "task_type", "until"])
def test_an_assignment_says_the_same_as_another_but_for_its_name_and_what_became_of_it(changed: str) -> None:
    one = Assignment("a", b"t", b"w", "spiffe://a/desk", "spiffe://a/w", "Refund", START)
    assert one.says_the_same(replace(one, assignment_id="b", state=AssignmentState.TAKEN, task_id="t"))
    other = {"until": START.replace(year=2027)}.get(changed, b"x" if changed.endswith("sha256") else "x")
    assert not one.says_the_same(replace(one, **{changed: other}))  # type: ignore[arg-type]  # each of its own type
