"""Taking a task up again: by one stream after another, never by two, and by nobody else (design 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from stepgrant.intent import canonical
from stepgrant_gateway.app.open_tasks import Task
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import OpenTask, Pushed, TaskClosed
from stepgrant_gateway.core.decision import Permitted
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ports import Clock, Entropy, Journal
from stepgrant_gateway.core.principal import Peer, Subject

TOKEN_BYTES: Final = 32
"""Of a resume token: random, so that its hash needs no salt."""
TAKEN_OVER: Final = "taken_over"
"""The code that a stream ends with when another one has its task. The task goes on."""


class Resuming:
    """Gives out resume tokens, and takes each of them once."""

    def __init__(
        self, *, state: State, clock: Clock, entropy: Entropy, journal: Journal, endings: Endings
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._journal = journal
        self._endings = endings

    def issue(self, task: Task) -> bytes:
        """A fresh resume token of the task, 32 bytes; every earlier one is void. Only its hash stays here, while the task is open."""
        token = self._entropy(TOKEN_BYTES)
        self._state.resumable.pop(task.resume_sha256, None)
        task.resume_sha256 = hashlib.sha256(token).digest()
        if task.open:
            self._state.resumable[task.resume_sha256] = task
        return token

    def find(self, peer: Peer, request: OpenTask, subject: Subject | None) -> Task | None:
        """The open task that this workload, this instance and these words may take up; None for any other reason alike.

        1. The token is the task's latest, and nobody has taken it. 2. The workload is the same. 3. So is the instance key,
        which `Open` has proven. 4. So is the task type, 5. and the digest of the parameters as sent. 6. So is the subject,
        which a token has proven that is valid now: the first one, or a later one of the same user. A branch has its task's.
        """
        task = self._state.resumable.get(hashlib.sha256(request.resume_token).digest())
        if task is None or not task.open:
            return None
        proven = None if subject is None else str(subject.id)
        same = (
            task.peer.spiffe_id == peer.spiffe_id
            and task.instance_jkt == request.instance_jkt
            and task.task_type.name == request.task_type
            and task.parameters_sha256 == parameters_digest(request)
            and proven == (task.on_behalf_of if task.origin is None else None)
        )
        return task if same else None

    def take(
        self, task: Task, peer: Peer, subject: Subject | None, push: Callable[[Pushed], None], decision_id: str,
        permitted: Permitted,
    ) -> None:  # fmt: skip
        """The task is this stream's from now on, and the token is used. To be called in one go with `find`.

        In force at once and recorded when the ledger can, like an end: it mints nothing, and what is granted on the new
        stream stands behind it in the ledger (ADR 18).
        """
        del self._state.resumable[task.resume_sha256]
        before, lingered = task.push, task.lingering
        other_claims = task.subject is not None and subject is not None and task.subject.claims != subject.claims
        task.peer, task.push, task.lingering = peer, push, False
        if task.origin is None:
            task.shared.subject = subject
        task.holds += 1
        self._endings.bound(task)
        task.unwatch(all_of_them=False)
        task.taken = self._journal.record_end(
            Event(
                EventType.TASK_TAKEN_UP if lingered else EventType.TASK_TAKEN_OVER,
                self._clock.now(),
                {
                    **task.named,
                    "decision": decision_id,
                    "workload": task.workload,
                    "peer_method": peer.method,
                    "steps": sorted(task.live),
                    "policies": [permit.place.policy_id for permit in permitted.permits],
                    "policy": self._state.policy.digest,
                    "revision": self._state.revision,
                    "expires_ms": int(task.expires_at.timestamp() * 1000),
                },
            )
        )
        if other_claims:
            self._endings.reconsider(task.family(), cause="subject_changed", by="gateway")
        if not lingered:
            before(TaskClosed(TAKEN_OVER, "another stream of the same instance has taken the task over."))


def parameters_digest(request: OpenTask) -> bytes:
    """SHA-256 over JCS of the parameters as sent: 32 bytes."""
    return hashlib.sha256(canonical(dict(request.parameters))).digest()
