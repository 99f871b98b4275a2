"""What earlier lives of the gateway left behind: a fold over the ledger's events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from stepgrant.selector import Selector
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.revocation import Lock


@dataclass(frozen=True, slots=True)
class Spent:
    """What a step added to a budget of its workload."""

    budget: str
    workload: str
    at: datetime
    amount: Decimal
    step: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Brought:
    """A label, when, and by which instance of which workload."""

    label: str
    workload: str
    instance_jkt: bytes
    at: datetime


@dataclass(slots=True)
class History:
    """Locks in force, what was spent, labels brought, steps that were live when the record ends, and its last time."""

    locks: dict[str, Lock] = field(default_factory=dict)
    spent: list[Spent] = field(default_factory=list)
    labels: list[Brought] = field(default_factory=list)
    open_tasks: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    task_labels: dict[str, set[str]] = field(default_factory=dict)
    live_steps: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    undelivered: set[tuple[str, str]] = field(default_factory=set)
    latest: datetime | None = None


def fold(events: Iterable[Event]) -> History:
    """The history that the events tell, oldest first."""
    history = History()
    for event in events:
        history.latest = event.at if history.latest is None else max(history.latest, event.at)
        _apply(history, event)
    # At the end, all at once: an outage leaves thousands of them, and a ledger may hold a million events.
    history.spent = [item for item in history.spent if item.step not in history.undelivered]
    return history


def _apply(history: History, event: Event) -> None:
    data = event.data
    match event.type:
        case EventType.LOCK_SET:
            selector = Selector(**data["selector"])
            history.locks[data["lock"]] = Lock(data["lock"], selector, data["reason"], event.at, data["by"])
        case EventType.LOCK_LIFTED:
            history.locks.pop(data["lock"], None)
        case EventType.TASK_OPENED:
            history.open_tasks[data["task"]] = (data["workload"], bytes.fromhex(data["instance_jkt"]))
            history.task_labels[data["task"]] = set(data["labels"])
        case EventType.TASK_CLOSED:
            workload, jkt = history.open_tasks.pop(data["task"], ("", b""))
            # A task has its labels to its end, those included that it began with.
            labels = history.task_labels.pop(data["task"], ())
            history.labels.extend(Brought(label, workload, jkt, event.at) for label in sorted(labels))
        case EventType.STEP_GRANTED:
            workload, jkt = history.open_tasks.get(data["task"], ("", b""))
            key = (data["task"], data["step"])
            history.live_steps[key] = dict(data)
            history.task_labels.setdefault(data["task"], set()).update(data["labels"])
            history.labels.extend(Brought(label, workload, jkt, event.at) for label in data["labels"])
            history.spent.extend(
                Spent(name, workload, event.at, Decimal(amount), key) for name, amount in data["deltas"].items()
            )
        case EventType.STEP_RENEWED:
            key = (data["task"], data["step"])
            history.live_steps[key] = {**history.live_steps.get(key, {}), **data}
        case EventType.STEP_ENDED:
            key = (data["task"], data["step"])
            history.live_steps.pop(key, None)
            if data["code"] == "undelivered":
                history.undelivered.add(key)
        case _:
            pass
