"""Start: what earlier lives left behind becomes state again, and all of their steps are abandoned."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.budgets import Book, Entry, StepKey
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History

FORMER: Final[StepKey] = ("", "")
"""In whose name books say what all steps of former lives spent: no step has this key, so none gives it back."""


def restore(state: State, history: History, now: datetime) -> list[Event]:
    """Takes over locks, books and label memory; returns the ends that have to be recorded (design 3)."""
    state.locks.update(history.locks)
    state.latest = history.latest
    for (name, workload), grains in history.spent.items():
        budget = state.policy.catalog.budgets.get(name)
        if budget is None or budget.per == "task":
            continue
        book = state.books.setdefault((name, workload), Book(budget.window))
        for spent in sorted(grains.values(), key=lambda spent: spent.at):
            book.reserve(Entry(spent.at, FORMER, spent.amount))
        book.settle(FORMER)
    state.memory = history.labels.copied()
    for task in history.open_tasks.values():
        # Open until now, so what its labels tell of reaches to now.
        state.memory.remember(task.workload, task.instance_jkt, task.labels, now)
    reason = "the gateway that held it is gone."
    ended = [
        Event(
            EventType.STEP_ENDED,
            now,
            {
                "task": task,
                "step": step,
                "grant": live.grant,
                "exp_ms": live.exp_ms,
                "state": "abandoned",
                "code": "gateway_gone",
                "reason": reason,
                "by": "gateway",
            },
        )
        for (task, step), live in history.live_steps.items()
    ]
    closed = [
        Event(EventType.TASK_CLOSED, now, {"task": task_id, "code": "gateway_gone", "reason": reason, "by": "gateway"})
        for task_id in history.open_tasks
    ]
    return ended + closed
