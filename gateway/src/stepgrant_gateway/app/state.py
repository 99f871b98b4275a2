"""The state of the gateway in memory: open tasks, their steps, locks, books. Changed on the event loop's thread only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from stepgrant_gateway.app.open_tasks import Origin, Step, Task
from stepgrant_gateway.core.assignments import Assignment
from stepgrant_gateway.core.budgets import Book
from stepgrant_gateway.core.decision import TaskType
from stepgrant_gateway.core.grants import MAX_LINGER
from stepgrant_gateway.core.labels import LabelMemory
from stepgrant_gateway.core.logouts import Logouts
from stepgrant_gateway.core.ports import PolicySet
from stepgrant_gateway.core.revocation import LiftedLock, Lock

MAX_TASKS: Final = 20_000
"""Open tasks of one gateway: twice the idle streams that it is measured with."""
MAX_LOCKS: Final = 1024
"""Locks in force at once; each is matched at every decision."""


@dataclass(slots=True)
class State:
    """Everything that the gateway knows at this moment. `tasks`: open tasks and branches; `hand_offs`: those not yet taken."""

    policy: PolicySet
    activated_by: str = "gateway"
    revision: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    grants: dict[str, Step] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)
    lifted: list[LiftedLock] = field(default_factory=list)
    books: dict[tuple[str, str], Book] = field(default_factory=dict)
    memory: LabelMemory = field(default_factory=LabelMemory)
    logouts: Logouts = field(default_factory=Logouts)
    resumable: dict[bytes, Task] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    tickets: dict[bytes, str] = field(default_factory=dict)
    hand_offs: dict[bytes, Origin] = field(default_factory=dict)
    linger: timedelta = MAX_LINGER
    draining: bool = False
    latest: datetime | None = None

    def books_of(self, task: Task, name: str) -> tuple[Book, ...]:
        """The books of one budget that a step counts in: of every workload of its chain, or the one of task or subject."""
        if task.origin is None or self.policy.catalog.budgets[name].per != "workload":
            return (self.book(task, name),)
        return tuple([self.book(link, name) for link, _ in task.links(task.peer)])

    def book(self, task: Task, name: str) -> Book:
        """The book of one budget for a task: its own, or that of its workload or of its subject.

        Without a subject nothing is ever counted by one (`refuse_uncounted`), so that nothing was spent.
        """
        budget = self.policy.catalog.budgets[name]
        if budget.per == "task" or (budget.per == "subject" and task.subject is None):
            books = task.shared.books
            return books.get(name) or books.setdefault(name, Book(budget.window))
        # A SPIFFE ID is no `issuer#sub`: both are owners side by side.
        key = (name, task.on_behalf_of or "" if budget.per == "subject" else task.workload)
        return self.books.get(key) or self.books.setdefault(key, Book(budget.window))

    def assignment_of(self, ticket_sha256: bytes) -> Assignment | None:
        """The assignment of a ticket, whatever has become of it, until it expires."""
        return self.assignments.get(self.tickets.get(ticket_sha256, ""))

    def keep_assignment(self, assignment: Assignment) -> None:
        """Remembers it as it is now."""
        self.assignments[assignment.assignment_id] = assignment
        self.tickets[assignment.ticket_sha256] = assignment.assignment_id

    def forget_assignment(self, assignment_id: str) -> None:
        """It has expired."""
        assignment = self.assignments.pop(assignment_id, None)
        if assignment is not None:
            self.tickets.pop(assignment.ticket_sha256, None)

    def remembered(self, task_type: TaskType, workload: str, instance_jkt: bytes, now: datetime) -> frozenset[str]:
        """The labels that a new task of this type starts with (design 3, `label_memory`)."""
        if task_type.memory_window is None:
            return frozenset()
        apart = task_type.memory_scope == "instance"
        since = now - task_type.memory_window
        labels = self.memory.brought(workload, instance_jkt if apart else None, since)
        for task in self.tasks.values():
            # Of thousands of open tasks most have no label, and the cheapest question comes first.
            held = task.shared.labels
            if held and task.workload == workload and (not apart or task.instance_jkt == instance_jkt):
                labels |= held.keys()
        return frozenset(labels)

    def tidy(self, now: datetime) -> None:
        """Drops labels that no window reaches any more, and books that say nothing."""
        self.memory.tidy(now)
        self.logouts.tidy(now)
        for key, book in list(self.books.items()):
            if book.is_empty(now):
                del self.books[key]
