"""Ends: of steps with their descendants, and of tasks. In memory and on the feed at once, in the ledger when it can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Final

from stepgrant.errors import DenialCode
from stepgrant.grant import LEEWAY
from stepgrant_gateway.app.authorizer import reconsider
from stepgrant_gateway.app.expiry import Deadlines
from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.locking import lock_on, lock_refusal, locks_dispatcher
from stepgrant_gateway.app.open_tasks import LiveGrant, Step, Task
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import StepEnded, TaskClosed
from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.observations import UNOBSERVED, Count
from stepgrant_gateway.core.ports import Clock, Journal, Observer
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.core.revocation import Lock, RevokedGrant
from stepgrant_gateway.core.steps import StepInput, StepState, advance

POLICY_CHANGED: Final = "policy_changed"
"""The code of a step that ends because the set that is active now does not permit it."""
DISPATCHER_LOCKED: Final = "dispatcher_locked"
"""The code of a task that ends because who assigned it is locked."""
AT_ONCE: Final = 32
"""Live steps that are looked at in one turn of the loop, a few milliseconds of it: with each turn resources hear of what ended."""

logger = logging.getLogger(__name__)


class Endings:
    """The only place where a step or a task ends."""

    def __init__(
        self, *, state: State, clock: Clock, journal: Journal, feed: Feed, deadlines: Deadlines,
        observer: Observer = UNOBSERVED,
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._journal = journal
        self._feed = feed
        self._deadlines = deadlines
        self._observer = observer

    def end_step(
        self, task: Task, step: Step, how: StepInput, *, code: str, reason: str, by: str, result: bytes | None = None
    ) -> None:
        """The step ends now, its descendants before it; their grants are dead (invariant 5).

        `code` is stable, `reason` safe for the agent, `by` who caused it: `agent`, `gateway`, or an operator's SPIFFE ID.
        `result`: the SHA-256 of what came of it, in the agent's own word.
        """
        self._end_branches(task, step, by)
        for child in [other for other in task.live.values() if other.parent is step]:
            self.end_step(
                task,
                child,
                StepInput.REVOKE,
                code="parent_ended",
                reason="the step that it belongs to has ended.",
                by=by,
            )
        now = self._clock.now()
        step.state, _ = advance(step.state, how)
        step.code, step.reason = code, reason
        del task.live[step.key[1]]
        grant = step.held
        grant.deadline.cancel()
        self.kill_grant(grant, code)
        for name in self._state.policy.catalog.budgets:
            for book in self._state.books_of(task, name):
                book.settle(step.key)
        step.slim()
        self._journal.record_end(
            Event(
                EventType.STEP_ENDED,
                now,
                {
                    **task.named,
                    "step": step.key[1],
                    "grant": grant.grant_id,
                    "exp_ms": int(grant.lifetime.expires_at.timestamp() * 1000),
                    "state": step.state.value,
                    "code": code,
                    "reason": reason,
                    "by": by,
                    **({"result_sha256": result.hex()} if result is not None else {}),
                },
            )
        )
        if step.state in {StepState.EXPIRED, StepState.REVOKED}:
            task.push(StepEnded(step.key[1], step.state.value, code, reason, now))

    def _end_branches(self, task: Task, step: Step, by: str) -> None:
        """What was handed on ends with the step: branches that are open, and what was not taken yet."""
        for hand_off in step.hand_offs:
            self._state.hand_offs.pop(hand_off.ticket_sha256, None)
            branch = task.shared.branches.get(hand_off.hand_off_id)
            if branch is not None:
                reason = "the step that was handed on has ended."
                self.end_task(branch, StepInput.REVOKE, code="parent_ended", reason=reason, by=by)

    def kill_grant(self, grant: LiveGrant, code: str) -> None:
        """Tells the resources that the grant is dead; keeps its id for as long as it could be presented.

        What a lock ends needs no telling: its one event, and that of its lifting, end every grant that it matches. Nor
        does what has run out, by the monotonic clock: everybody sees that, and ten thousand at once would cut off every reader.
        """
        grant_id, expires_at, now = grant.grant_id, grant.lifetime.expires_at, self._clock.now()
        if code != DenialCode.LOCKED.value and grant.deadline.when > self._clock.monotonic():
            self._feed.publish(RevokedGrant(grant_id, grant.audience, expires_at, code, now))
        self._observer.count(Count.GRANT_ENDED, code)
        held = now - grant.lifetime.issued_at
        self._observer.count(Count.GRANT_HELD_SECONDS, by=max(held.total_seconds(), 0.0))
        self._deadlines.at(expires_at + LEEWAY, lambda: self._forget(grant_id))

    def end_steps(self, task: Task, how: StepInput, *, code: str, reason: str, by: str, of: Peer | None = None) -> None:
        """Every live step ends, or every one that was granted to the SVID `of`."""
        # Children were declared after their parents: each ends for this reason, not for its parent's.
        for step in reversed(list(task.live.values())):
            if step.live and (of is None or step.peer == of):
                self.end_step(task, step, how, code=code, reason=reason, by=by)

    def bound(self, task: Task) -> None:
        """Has the task end by its max_age, or with the SVID of its stream or its subject's token, and of nothing else any more."""
        for deadline in task.deadlines:
            deadline.cancel()
        # What else bounds a branch bounds its origin, which may move on while the branch is open.
        ends_at = task.expires_at if task.origin is None else task.peer.not_after
        if ends_at == task.peer.not_after:
            code, reason = (
                "identity_expired",
                "the SVID of the stream has expired; open the task anew with the next one.",
            )
        elif task.subject is not None and ends_at == task.subject.expires_at:
            code, reason = (
                "subject_expired",
                "the token of its subject has expired; open the task anew with the next one.",
            )
        else:
            code, reason = "task_expired", "the task has reached its max_age."
        end = partial(self.end_task, task, StepInput.EXPIRE, code=code, reason=reason, by="gateway")
        task.deadlines = [self._deadlines.at(ends_at, end)]

    def let_linger(self, task: Task, *, code: str, reason: str) -> None:
        """The stream is gone and every grant dead, but the task can be taken up again for its `linger`; then it ends."""
        if not task.open or task.lingering:
            return
        if not task.linger:
            self.end_task(task, StepInput.ABANDON, code=code, reason=reason, by="gateway")
            return
        task.lingering = True
        self.end_steps(task, StepInput.ABANDON, code=code, reason=reason, by="gateway")
        now = self._clock.now()
        until = now + task.linger
        data = {**task.named, "code": code, "reason": reason, "until_ms": int(until.timestamp() * 1000)}
        self._journal.record_end(Event(EventType.TASK_LINGERS, now, data))
        gone = partial(self.end_task, task, StepInput.ABANDON, code=code, reason=reason, by="gateway")
        task.deadlines.append(self._deadlines.at(until, gone))

    def end_task(self, task: Task, how: StepInput, *, code: str, reason: str, by: str) -> None:
        """The task is over, and every grant of it is dead."""
        if not task.open:
            return
        task.open = False
        self.end_steps(task, how, code=code, reason=reason, by=by)
        for deadline in task.deadlines:
            deadline.cancel()
        self._state.resumable.pop(task.resume_sha256, None)
        task.unwatch(all_of_them=True)
        now = self._clock.now()
        if task.shared.labels:
            self._state.memory.remember(task.workload, task.instance_jkt, task.shared.labels, now)
        self._state.tasks.pop(task.key, None)
        task.shared.branches.pop(task.key, None)
        closed = EventType.TASK_CLOSED if task.origin is None else EventType.BRANCH_CLOSED
        self._journal.record_end(Event(closed, now, {**task.named, "code": code, "reason": reason, "by": by}))
        task.push(TaskClosed(code, reason))

    def reconsider(self, tasks: Iterable[Task], *, cause: str, by: str, spare: Step | None = None) -> int:
        """Ends every live step that is no longer permitted; returns how many. `cause` is the stable code."""
        ended = 0
        for task in list(tasks):
            for step in list(task.live.values()):
                if step is not spare and step.live:
                    ended += self._reconsider(task, step, cause, by)
        return ended

    async def reconsider_all(self) -> int:
        """Ends every live step that the active set does not permit; returns how many. In turns with everything else.

        What such a step does before its turn has come is held against the set as well (`still_permitted`).
        """
        ended = 0
        async for task, step in self.live_steps():
            if step.held.held_against != self._state.policy.digest:
                ended += self._reconsider(task, step, POLICY_CHANGED, self._state.activated_by)
        return ended

    async def live_steps(self) -> AsyncIterator[tuple[Task, Step]]:
        """Every step that is live now and still is when its turn comes, `AT_ONCE` in one turn of the loop."""
        looked = 0
        for task in [task for task in self._state.tasks.values() if task.live]:
            for step in list(task.live.values()):
                if step.live:
                    yield task, step
                    looked += 1
                    if looked % AT_ONCE == 0:
                        await asyncio.sleep(0)
        # Whoever is told of an end is on the way before what is still to be done here.
        await asyncio.sleep(0)

    def still_permitted(self, task: Task, step: Step) -> bool:
        """Whether a live step may go on: a lock or a new set is in force before every live step has been held against it.

        If it may not, it has ended when this returns.
        """
        grant = step.held
        if self._state.locks:
            lock = lock_on(self._state, task, tool=step.declared.tool, target=step.target)
            if lock is not None:
                self.lock_out(task, step, lock)
                return False
        if grant.held_against != self._state.policy.digest:
            self._reconsider(task, step, POLICY_CHANGED, self._state.activated_by)
        return step.live

    def lock_out(self, task: Task, step: Step, lock: Lock) -> None:
        """The step ends by a lock that matches it."""
        # Resources know nothing of dispatchers: what a lock on one ends, they have to be told grant by grant.
        by_dispatcher = locks_dispatcher(lock, task)
        code, reason = DISPATCHER_LOCKED if by_dispatcher else DenialCode.LOCKED.value, lock_refusal(lock).reason
        self.end_step(task, step, StepInput.REVOKE, code=code, reason=reason, by=lock.issued_by)

    def lock_out_task(self, task: Task, lock: Lock) -> None:
        """The task ends by a lock that matches it."""
        code, reason = DenialCode.LOCKED.value, lock_refusal(lock).reason
        self.end_task(task, StepInput.REVOKE, code=code, reason=reason, by=lock.issued_by)

    async def lock_out_assigned(self, lock: Lock) -> int:
        """Every open task whose dispatcher is locked ends; returns how many steps lived. In turns with everything else."""
        ended = 0
        assigned = [task for task in self._state.tasks.values() if task.shared.assignment is not None]
        for number, task in enumerate(assigned, 1):
            if task.open and locks_dispatcher(lock, task):
                ended += task.count_live()
                reason, by = lock_refusal(lock).reason, lock.issued_by
                self.end_task(task, StepInput.REVOKE, code=DISPATCHER_LOCKED, reason=reason, by=by)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return ended

    def _reconsider(self, task: Task, step: Step, cause: str, by: str) -> int:
        refused = self._refused_now(task, step)
        step.held.held_against = self._state.policy.digest
        if refused is None:
            return 0
        before = task.count_live()
        self.end_step(task, step, StepInput.REVOKE, code=cause, reason=refused.reason, by=by)
        return before - task.count_live()

    def _refused_now(self, task: Task, step: Step) -> Refused | None:
        try:
            return reconsider(self._state, task, step)
        except Exception:
            # Every other step must be looked at all the same, and this one cannot be shown to be permitted.
            logger.exception("a live step could not be looked at anew; it ends")
            return Refused(DenialCode.POLICY_ERROR, "the policy could not be evaluated anew.", "declare another step.")

    def _forget(self, grant_id: str) -> None:
        step = self._state.grants.pop(grant_id, None)
        if step is not None and not step.live:
            step.redemptions.clear()
