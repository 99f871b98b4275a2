"""What is remembered as long as a decision can still need it."""

from datetime import timedelta
from decimal import Decimal

from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.budgets import Book, Entry
from stepgrant_gateway.core.decision import LONGEST_MEMORY, TaskType
from stepgrant_gateway.core.labels import MAX_INSTANCES
from tests.kit.clock import START
from tests.kit.heart import AGENT, TRIAGE, support_policy

HOUR = timedelta(hours=1)
BY_INSTANCE = TaskType("Refund", frozenset(), HOUR, memory_window=HOUR, memory_scope="instance")


def jkt(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_an_agent_with_ever_new_instance_keys_takes_bounded_memory_and_loses_no_label() -> None:
    """INV-11: an instance that does not fit is taken for its whole workload, which only adds labels."""
    state = State(support_policy())
    for number in range(MAX_INSTANCES + 100):
        state.memory.remember(AGENT, jkt(number), ["confidential"], START)
    assert len(state.memory.instances[AGENT]["confidential"]) == MAX_INSTANCES + 1
    assert state.remembered(BY_INSTANCE, AGENT, jkt(MAX_INSTANCES + 50), START) == {"confidential"}
    assert state.remembered(BY_INSTANCE, TRIAGE, jkt(0), START) == set()


def test_room_returns_when_what_was_remembered_is_out_of_every_window() -> None:
    state = State(support_policy())
    for number in range(MAX_INSTANCES):
        state.memory.remember(AGENT, jkt(number), ["confidential"], START)
    later = START + LONGEST_MEMORY + HOUR
    state.memory.remember(AGENT, jkt(7_000), ["confidential"], later)
    assert state.memory.instances[AGENT]["confidential"].keys() == {jkt(7_000)}
    assert state.remembered(BY_INSTANCE, AGENT, jkt(7_001), later) == set()


def test_what_an_instance_brought_that_did_not_fit_is_not_forgotten_when_room_returns() -> None:
    """INV-11: the first ones run out of every window a day before it does."""
    state, day = State(support_policy()), timedelta(days=1)
    for number in range(MAX_INSTANCES):
        state.memory.remember(AGENT, jkt(number), ["confidential"], START)
    state.memory.remember(AGENT, jkt(7_000), ["confidential"], START + day)
    state.tidy(START + LONGEST_MEMORY)
    now = START + day + HOUR / 2
    assert state.remembered(BY_INSTANCE, AGENT, jkt(7_000), now) == {"confidential"}
    assert state.remembered(BY_INSTANCE, AGENT, jkt(0), now) == {"confidential"}
    state.tidy(START + LONGEST_MEMORY + day)
    assert state.remembered(BY_INSTANCE, AGENT, jkt(7_000), now) == set()


def test_tidying_keeps_what_a_decision_can_still_need() -> None:
    state = State(support_policy())
    state.memory.remember(AGENT, jkt(1), ["confidential"], START)
    state.memory.remember(TRIAGE, jkt(2), ["untrusted"], START + LONGEST_MEMORY)
    for workload, at in ((AGENT, START), (TRIAGE, START + LONGEST_MEMORY)):
        book = state.books["mails", workload] = Book(HOUR)
        book.reserve(Entry(at, (workload, "step"), Decimal(1)))
        book.settle((workload, "step"))
    state.tidy(START + LONGEST_MEMORY + timedelta(minutes=1))
    assert state.memory.workloads.keys() == state.memory.instances.keys() == {TRIAGE}
    assert state.books.keys() == {("mails", TRIAGE)}
