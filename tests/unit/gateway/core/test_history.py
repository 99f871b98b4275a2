"""What earlier lives left behind, told by events alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History, fold
from tests.kit.clock import START

JKT = b"k" * 32
CLERKS = b"c" * 32


def event(kind: EventType, minutes: int, **data: Any) -> Event:
    return Event(kind, START + timedelta(minutes=minutes), data)


def opened(minutes: int, *labels: str, task: str = "t") -> Event:
    return event(
        EventType.TASK_OPENED, minutes, task=task, workload="spiffe://a/w", instance_jkt=JKT.hex(), labels=list(labels)
    )


def granted(minutes: int, step: str, *labels: str) -> Event:
    return event(
        EventType.STEP_GRANTED,
        minutes,
        task="t",
        step=step,
        grant=f"g-{step}",
        exp_ms=1,
        labels=list(labels),
        deltas={"mails": "1"},
    )


def ended(minutes: int, step: str, code: str = "completed") -> Event:
    return event(EventType.STEP_ENDED, minutes, task="t", step=step, code=code)


def spent(history: History) -> list[tuple[str, Decimal]]:
    return [(name, entry.amount) for (name, _), grains in history.spent.items() for entry in grains.values()]


def test_only_what_was_delivered_is_spent() -> None:
    history = fold([opened(0), granted(1, "a"), granted(2, "b"), ended(3, "a", "undelivered"), ended(4, "b")])
    assert spent(history) == [("mails", Decimal(0)), ("mails", Decimal(1))]
    assert history.live_steps == {}


def test_what_was_spent_within_a_minute_is_one_sum_that_leaves_no_window_too_early() -> None:
    begin = [opened(0), granted(1, "a"), granted(1, "b")]
    later = replace(granted(1, "c"), at=START + timedelta(minutes=1, seconds=59))
    (grains,) = fold([*begin, later]).spent.values()
    assert [(entry.at, entry.amount) for entry in grains.values()] == [(later.at, Decimal(3))]


def test_a_task_has_its_labels_to_its_end_and_those_that_it_began_with_too() -> None:
    history = fold([opened(0, "confidential"), granted(1, "a", "untrusted"), event(EventType.TASK_CLOSED, 9, task="t")])
    last = dict.fromkeys(("confidential", "untrusted"), START + timedelta(minutes=9))
    assert history.labels.instances == {"spiffe://a/w": {label: {JKT: at} for label, at in last.items()}}
    assert history.labels.workloads == {"spiffe://a/w": last}
    assert history.open_tasks == {}


def test_what_was_open_when_the_record_ends_is_left_to_be_ended() -> None:
    history = fold([opened(0), granted(1, "a"), opened(2, task="u"), event(EventType.TASK_CLOSED, 3, task="u")])
    assert list(history.live_steps) == [("t", "a")]
    assert list(history.open_tasks) == ["t"]
    assert history.latest == START + timedelta(minutes=3)


def spent_hourly(days: int) -> list[Event]:
    """One mail each ten minutes, some of which were never delivered."""
    events = [opened(0)]
    for number in range(days * 144):
        events.append(granted(10 * number, f"s{number}"))
        events.append(ended(10 * number + 1, f"s{number}", "undelivered" if number % 7 == 0 else "completed"))
    return events


def test_what_was_spent_long_ago_is_kept_by_the_hour_and_then_by_the_day_and_leaves_no_window_too_early() -> None:
    events = spent_hourly(100)
    (grains,) = fold(events).spent.values()
    end = events[-1].at
    last = end - timedelta(days=50)
    within = [event.at for event in events if event.type is EventType.STEP_GRANTED and event.at > last]
    undelivered = sum(event.data.get("code") == "undelivered" for event in events if event.at > last)
    counted = sum(spent.amount for spent in grains.values() if spent.at > last)
    assert 144 + 28 * 24 + 69 <= len(grains) <= 150 + 30 * 24 + 72
    assert 0 <= counted - (len(within) - undelivered) <= 144
    assert sum(spent.amount for spent in grains.values()) == 100 * 144 - -(-100 * 144 // 7)


def test_sums_are_the_same_however_often_they_were_made_on_the_way() -> None:
    events, often = spent_hourly(40), History()
    for number, one in enumerate(events):
        often.follow(one)
        if number % 37 == 0:
            often.tidy()
    often.tidy()
    assert often == fold(events)


def handed_on(minutes: int, **data: Any) -> Event:
    said = {"task": "t", "branch": "b", "workload": "spiffe://a/clerk", "instance_jkt": CLERKS.hex(), "labels": []}
    return event(EventType.BRANCH_OPENED, minutes, **{**said, **data})


def test_what_a_step_of_a_branch_spends_counts_for_each_workload_of_its_chain_and_is_given_back_to_each() -> None:
    spends = granted(2, "s")
    below = Event(spends.type, spends.at, {**spends.data, "branch": "b", "chain": ["spiffe://a/w", "spiffe://a/clerk"]})
    events = [opened(0), handed_on(1), below]
    assert {owner for _, owner in fold(events).spent} == {"spiffe://a/w", "spiffe://a/clerk"}
    sums = {tuple(spent.amount for spent in grains.values()) for grains in fold(events).spent.values()}
    assert sums == {(Decimal(1),)}
    lost = fold([*events, event(EventType.STEP_ENDED, 3, task="t", step="s", code="undelivered")])
    assert {spent.amount for grains in lost.spent.values() for spent in grains.values()} == {Decimal(0)}


def test_who_worked_on_a_branch_has_brought_what_its_task_was_labelled_with() -> None:
    events = [
        opened(0, "confidential"),
        handed_on(1, labels=["secret"]),
        granted(2, "s", "untrusted"),
        event(EventType.BRANCH_CLOSED, 9, task="t", branch="b", code="parent_ended"),
    ]
    history = fold(events)
    seen = {"confidential", "secret", "untrusted"}
    assert history.labels.brought("spiffe://a/clerk", CLERKS, START) == seen
    assert history.open_tasks["t"].labels == seen
    assert not history.open_branches
    assert not fold(events[:-1]).labels.brought("spiffe://a/clerk", CLERKS, START)
    assert fold(events[:-1]).open_branches["b"].task == "t"
    undelivered = event(EventType.BRANCH_CLOSED, 9, task="t", branch="b", code="undelivered")
    assert not fold([*events[:-1], undelivered]).labels.brought("spiffe://a/clerk", CLERKS, START)


def made(minutes: int, name: str = "a", *, lives: int = 60) -> Event:
    until = START + timedelta(minutes=minutes + lives)
    return event(
        EventType.ASSIGNMENT_MADE,
        minutes,
        assignment=name,
        ticket_sha256="74" * 32,
        words_sha256="77" * 32,
        dispatcher="spiffe://a/desk",
        workload="spiffe://a/w",
        task_type="Refund",
        until_ms=int(until.timestamp() * 1000),
    )


def withdrawn(minutes: int, code: str = "open") -> Event:
    return event(EventType.ASSIGNMENT_WITHDRAWN, minutes, assignment="a", task="", by="spiffe://a/desk", code=code)


def became(*events: Event) -> dict[str, str]:
    return {name: one.state.value for name, one in fold(events).assignments.items()}


def test_an_assignment_is_remembered_with_what_became_of_it_until_its_time_is_over() -> None:
    taken = replace(opened(1), data={**opened(1).data, "assignment": "a"})
    assert became(made(0)) == {"a": "open"}
    assert became(made(0), taken) == {"a": "taken"}
    assert became(made(0), taken, event(EventType.TASK_CLOSED, 2, task="t", code="closed")) == {"a": "taken"}
    assert became(made(0), withdrawn(1)) == {"a": "withdrawn"}
    assert became(made(0, lives=5), made(5, "b")) == {"b": "open"}
    assert fold([made(0)]).assignments["a"].until == START + timedelta(minutes=60)


def test_what_nobody_was_told_of_has_neither_made_nor_taken_an_assignment() -> None:
    taken = replace(opened(1), data={**opened(1).data, "assignment": "a"})
    undelivered = event(EventType.TASK_CLOSED, 2, task="t", code="undelivered")
    assert became(made(0), taken, undelivered) == {"a": "open"}
    assert became(made(0), taken, withdrawn(2, "taken"), undelivered) == {"a": "withdrawn"}
    assert became(made(0), withdrawn(1, "undelivered")) == {}
