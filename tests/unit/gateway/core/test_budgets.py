"""Books: exact sums, and what was reserved for nothing."""

from datetime import timedelta
from decimal import Decimal

import pytest

from stepgrant_gateway.core.budgets import Book, Entry
from tests.kit.clock import START

HOUR = timedelta(hours=1)
STEP = ("task", "step")
ENTRY = Entry(START, STEP, Decimal("0.1"))


@pytest.mark.parametrize("window", [None, HOUR])
@pytest.mark.parametrize("settled", [True, False])
def test_what_is_given_back_is_not_spent_also_when_its_step_has_ended(
    window: timedelta | None, *, settled: bool
) -> None:
    book = Book(window)
    book.reserve(ENTRY)
    book.reserve(Entry(START, ("task", "other"), Decimal("0.2")))
    if settled:
        book.settle(STEP)
    book.give_back(ENTRY)
    assert book.spent(START, ("", "")) == Decimal("0.2")


def test_what_left_the_window_is_not_given_back_twice() -> None:
    book = Book(HOUR)
    book.reserve(ENTRY)
    assert book.spent(START + HOUR, STEP) == 0
    book.give_back(ENTRY)
    assert book.total == 0
    assert book.is_empty(START + HOUR)


def test_a_live_step_does_not_count_against_itself() -> None:
    book = Book(HOUR)
    book.reserve(ENTRY)
    assert (book.spent(START, STEP), book.spent(START, ("", ""))) == (0, Decimal("0.1"))
