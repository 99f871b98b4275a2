"""Locks: which of them a task or a step falls under, and what is said then."""

from __future__ import annotations

from stepgrant.errors import DenialCode
from stepgrant.selector import matches
from stepgrant_gateway.app.open_tasks import Task
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.decision import PolicyPlace, Refused
from stepgrant_gateway.core.revocation import Lock


def locked(state: State, task: Task, *, tool: str | None, target: str | None) -> Refused | None:
    """The refusal of the first lock that matches, or None. Tool and target None: of the task itself."""
    lock = lock_on(state, task, tool=tool, target=target)
    return None if lock is None else lock_refusal(lock)


def lock_on(state: State, task: Task, *, tool: str | None, target: str | None) -> Lock | None:
    """The first lock in force that matches, or None: one on who assigned the task, too."""
    for lock in state.locks.values():
        if falls_under(lock, task, tool=tool, target=target) or locks_dispatcher(lock, task):
            return lock
    return None


def falls_under(lock: Lock, task: Task, *, tool: str | None, target: str | None) -> bool:
    """True if the lock matches a step of the task, or with tool and target None the task itself.

    A branch falls under a lock on any workload of its chain.
    """
    return any(
        matches(
            lock.selector, workload=workload, task_type=task.task_type.name, tool=tool, target=target,
            subject=task.on_behalf_of,
        )
        for workload in task.chain
    )  # fmt: skip


def locks_dispatcher(lock: Lock, task: Task) -> bool:
    """True if the lock is on who assigned the task: on all of it, so not one that names a tool or a target."""
    return task.shared.assignment is not None and matches(
        lock.selector, workload=task.shared.assignment.dispatcher, task_type=task.task_type.name, tool=None, target=None,
        subject=task.on_behalf_of,
    )  # fmt: skip


def lock_refusal(lock: Lock) -> Refused:
    """What a lock answers; the operator's record names it as forbid `lock:<id>`."""
    return Refused(
        DenialCode.LOCKED,
        f"an operator has locked this: {lock.reason}",
        "wait until the lock is lifted, or ask the operator.",
        places=(PolicyPlace(f"lock:{lock.lock_id}", "", 0),),
    )
