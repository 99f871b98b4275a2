"""Start: what earlier lives left behind becomes state again, and all of their steps are abandoned."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final

from stepgrant.grant import LEEWAY
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.budgets import Book, Entry, StepKey
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History
from stepgrant_gateway.core.logouts import Logouts

FORMER: Final[StepKey] = ("", "")
"""In whose name books say what all steps of former lives spent: no step has this key, so none gives it back."""

_log = logging.getLogger(__name__)


def forgive(history: History, ahead_until: datetime | None, now: datetime) -> list[Event]:
    """What to record when the operator says that the clock had been ahead; then the record does not stop minting (ADR 17).

    `ahead_until` is the time of the latest event, as the ledger shows it: nobody says that by habit, and it is said once.

    Raises:
        ConfigError: it is another time than that.
    """
    latest = history.latest
    if latest is None or now >= latest - LEEWAY:
        return []
    said = f"{latest.isoformat(timespec='microseconds').removesuffix('+00:00')}Z"
    if ahead_until is None:
        _log.error(
            "Nothing is granted: the clock is behind the ledger, whose latest event is of %s. Set the clock. If it is"
            " right, and was ahead when that was recorded: stepgrant serve --clock-was-ahead %s",
            said,
            said,
            extra={"event": "clock_behind_ledger"},
        )
        return []
    if ahead_until != latest:
        raise ConfigError(f"--clock-was-ahead: the latest event of the ledger is of {said}; look at it, and say that")
    return [Event(EventType.CLOCK_FORGIVEN, now, {"ahead_until": said})]


def restore(state: State, history: History, now: datetime) -> list[Event]:
    """Takes over locks, assignments, books and label memory; returns the ends that have to be recorded (design 3)."""
    state.locks.update(history.locks)
    state.latest = history.latest
    for assignment in history.assignments.values():
        state.keep_assignment(assignment)
    for (name, owner), grains in history.spent.items():
        budget = state.policy.catalog.budgets.get(name)
        # A subject is `issuer#sub`, and no SPIFFE ID has a fragment.
        if budget is None or budget.per != ("subject" if "#" in owner else "workload"):
            continue
        book = state.books.setdefault((name, owner), Book(budget.window))
        for spent in sorted(grains.values(), key=lambda spent: spent.at):
            book.reserve(Entry(spent.at, FORMER, spent.amount))
        book.settle(FORMER)
    state.memory = history.labels.copied()
    state.logouts = Logouts(dict(history.logouts.known))
    for task in history.open_tasks.values():
        # Open until now, so what its labels tell of reaches to now.
        state.memory.remember(task.workload, task.instance_jkt, task.labels, now)
    for branch in history.open_branches.values():
        labels = history.open_tasks[branch.task].labels if branch.task in history.open_tasks else set()
        state.memory.remember(branch.workload, branch.instance_jkt, labels, now)
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
    gone = {"code": "gateway_gone", "reason": reason, "by": "gateway"}
    branches = [
        Event(EventType.BRANCH_CLOSED, now, {"task": branch.task, "branch": branch_id, **gone})
        for branch_id, branch in history.open_branches.items()
    ]
    closed = [Event(EventType.TASK_CLOSED, now, {"task": task_id, **gone}) for task_id in history.open_tasks]
    return ended + branches + closed
