"""Opening a task with an assignment: by the workload that it names, with its words, in its time, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from stepgrant_gateway.app.authorizer import Rejected
from stepgrant_gateway.app.open_tasks import Task
from stepgrant_gateway.app.refusals import NOT_ASSIGNED
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.assignments import Assignment, AssignmentState, ticket_digest, words_digest
from stepgrant_gateway.core.boundary import OpenTask
from stepgrant_gateway.core.principal import Peer


def find_assignment(state: State, peer: Peer, request: OpenTask, now: datetime) -> Assignment | Rejected:
    """The assignment that this workload may open this task with. The refusal is always the same; the operator sees why."""
    # 1. The ticket is known.
    found = state.assignment_of(ticket_digest(request.assignment))
    if found is None:
        return _no_assignment("the ticket is not known, or has expired.")
    # 2. It was assigned to this very workload, 3. for this task type, 4. with these words, to the letter.
    if found.workload != str(peer.spiffe_id):
        return _no_assignment(f"{found.assignment_id} was assigned to another workload.")
    if found.task_type != request.task_type:
        return _no_assignment(f"{found.assignment_id} was made for another task type.")
    if found.words_sha256 != words_digest(request.assignment, request.parameters, request.purpose):
        return _no_assignment(f"{found.assignment_id} was made for other parameters, or for another purpose.")
    # 5. Nobody has taken it or withdrawn it. 6. Its time is not over.
    if found.state is not AssignmentState.OPEN:
        return _no_assignment(f"{found.assignment_id} is {found.state.value}.")
    if now >= found.until:
        return _no_assignment(f"{found.assignment_id} has expired.")
    return found


def _no_assignment(why: str) -> Rejected:
    return Rejected(replace(NOT_ASSIGNED, errors=(why,)))


def take_assignment(state: State, task: Task) -> None:
    """The task's assignment opens no other. To be called in one go with `find_assignment`: of two, one finds nothing."""
    if task.shared.assignment is not None:
        task.shared.assignment = replace(task.shared.assignment, state=AssignmentState.TAKEN, task_id=task.task_id)
        state.keep_assignment(task.shared.assignment)


def give_back_assignment(state: State, task: Task) -> None:
    """The task was never open, so its assignment may open another; unless it was withdrawn meanwhile, or is over."""
    taken = task.shared.assignment
    if taken is None or taken.state is not AssignmentState.TAKEN:
        return
    if state.assignments.get(taken.assignment_id) == taken:
        state.keep_assignment(replace(taken, state=AssignmentState.OPEN, task_id=""))
