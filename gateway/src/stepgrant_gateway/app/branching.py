"""Opening a branch of a task: by the workload that a step was handed on to, for that very task, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from stepgrant_gateway.app.authorizer import Rejected
from stepgrant_gateway.app.open_tasks import Origin, Task
from stepgrant_gateway.app.refusals import NOT_HANDED_ON
from stepgrant_gateway.app.resuming import parameters_digest
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import OpenTask, Pushed
from stepgrant_gateway.core.hand_offs import ticket_digest
from stepgrant_gateway.core.principal import Peer


def find_hand_off(state: State, peer: Peer, request: OpenTask) -> Origin | Rejected:
    """What this workload may open a branch with. The refusal is always the same; the operator sees why."""
    # 1. The ticket is known, so that the step lives and nobody has taken it.
    found = state.hand_offs.get(ticket_digest(request.hand_off))
    if found is None:
        return _not_handed_on("the ticket is not known, was used, or its step has ended.")
    hand_off_id, root = found.hand_off.hand_off_id, found.giver.root
    # 2. It was handed on to this very workload, 3. which knows what it takes part in: type and parameters, to the letter.
    if found.hand_off.receiver != str(peer.spiffe_id):
        return _not_handed_on(f"{hand_off_id} was made for another workload.")
    if root.task_type.name != request.task_type:
        return _not_handed_on(f"{hand_off_id} belongs to a task of another type.")
    if root.parameters_sha256 != parameters_digest(request):
        return _not_handed_on(f"{hand_off_id} belongs to a task with other parameters.")
    return found


def _not_handed_on(why: str) -> Rejected:
    return Rejected(replace(NOT_HANDED_ON, errors=(why,)))


def branch_of(
    state: State, origin: Origin, peer: Peer, request: OpenTask, now: datetime, push: Callable[[Pushed], None]
) -> Task:
    """The branch that this stream would work on."""
    root = origin.giver.root
    return Task(
        task_id=root.task_id,
        task_type=root.task_type,
        parameters=root.parameters,
        purpose=request.purpose,
        peer=peer,
        instance_jkt=request.instance_jkt,
        opened_at=now,
        push=push,
        shared=root.shared,
        origin=origin,
        parameters_sha256=root.parameters_sha256,
        linger=state.linger,
    )


def take_hand_off(state: State, branch: Task) -> None:
    """The hand-off opens no other branch. To be called in one go with `find_hand_off`: of two, one finds nothing."""
    if branch.origin is not None:
        del state.hand_offs[branch.origin.hand_off.ticket_sha256]
        branch.shared.branches[branch.key] = branch


def give_back_hand_off(state: State, branch: Task) -> None:
    """The branch was never open, so another may be, while the step lives."""
    if branch.origin is not None and branch.shared.branches.pop(branch.key, None) is not None:
        state.hand_offs[branch.origin.hand_off.ticket_sha256] = branch.origin
