"""Start: what earlier lives left behind becomes state again, and all of their steps are abandoned."""

from __future__ import annotations

from datetime import datetime

from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.budgets import Book, Entry
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History


def restore(state: State, history: History, now: datetime) -> list[Event]:
    """Takes over locks, books and label memory; returns the ends that have to be recorded (design 3)."""
    state.locks.update(history.locks)
    state.latest = history.latest
    for spent in history.spent:
        budget = state.policy.catalog.budgets.get(spent.budget)
        if budget is None or budget.per == "task":
            continue
        book = state.books.setdefault((spent.budget, spent.workload), Book(budget.window))
        book.reserve(Entry(spent.at, spent.step, spent.amount))
        book.settle(spent.step)
    for brought in history.labels:
        state.remember(brought.workload, brought.instance_jkt, [brought.label], brought.at)
    for task, (workload, jkt) in history.open_tasks.items():
        # Open until now, so what its labels tell of reaches to now.
        state.remember(workload, jkt, history.task_labels.get(task, ()), now)
    reason = "the gateway that held it is gone."
    ended = [
        Event(
            EventType.STEP_ENDED,
            now,
            {
                "task": task,
                "step": step,
                "grant": data["grant"],
                "exp_ms": data["exp_ms"],
                "state": "abandoned",
                "code": "gateway_gone",
                "reason": reason,
                "by": "gateway",
            },
        )
        for (task, step), data in history.live_steps.items()
    ]
    closed = [
        Event(EventType.TASK_CLOSED, now, {"task": task, "code": "gateway_gone", "reason": reason, "by": "gateway"})
        for task in history.open_tasks
    ]
    return ended + closed
