"""What operators do: look, lock, unlock, and swap the policy set."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.selector import Selector
from stepgrant_gateway.app.authorizer import dispatcher_of, voucher_of
from stepgrant_gateway.app.feed import KEPT, Feed
from stepgrant_gateway.app.locking import falls_under
from stepgrant_gateway.app.open_tasks import Step, Task
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import MAX_LOCKS, State
from stepgrant_gateway.app.undertakings import Undertakings
from stepgrant_gateway.core.budgets import Book
from stepgrant_gateway.core.decision import Question
from stepgrant_gateway.core.errors import Finding, NotAllowedError, NotFoundError, PolicyRefusedError, UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.grants import LONGEST_GRANT
from stepgrant_gateway.core.observations import UNOBSERVED, Count
from stepgrant_gateway.core.ports import Clock, Entropy, Journal, Observer, PolicySet, PolicySource
from stepgrant_gateway.core.revocation import LiftedLock, Lock
from stepgrant_gateway.core.views import StepView, TaskView

MAX_RECORDED_FINDINGS: Final = 32
MAX_RECORDED_FINDING: Final = 256
"""Findings of a refused set that are recorded, and characters of each: a record has a bound, a broken directory none."""
MAX_REHEARSED: Final = 512
"""Live steps whose question a new set is asked before it is active."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LockSet:
    """A lock in force. `durable` False: in force, not yet recorded."""

    lock: Lock
    durable: bool
    ended_steps: int


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Whether a new set is active; if not, `findings` say why, and the one before stays."""

    activated: bool
    policy_digest: str
    findings: tuple[Finding, ...]
    ended_steps: int
    cases: int


class Operating:
    """The operators' use cases. Who may call them is the face's question."""

    def __init__(
        self, *, state: State, clock: Clock, entropy: Entropy, journal: Journal, feed: Feed, endings: Endings,
        source: PolicySource, observer: Observer = UNOBSERVED,
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._journal = journal
        self._feed = feed
        self._endings = endings
        self._source = source
        self._observer = observer
        self._reloading = asyncio.Lock()
        self._undertakings = Undertakings()

    def tasks(self) -> list[TaskView]:
        """Open tasks, oldest first."""
        return [_task_view(task) for task in self._state.tasks.values()]

    def steps(self, task_id: str) -> list[StepView]:
        """Steps of an open task, in the order of their declaration.

        Raises:
            NotFoundError: no such task is open.
        """
        task = self._state.tasks.get(task_id)
        if task is None:
            raise NotFoundError(f"no open task {task_id}: its steps are in the ledger (stepgrant audit show)")
        return [_step_view(step) for step in task.shared.steps.values() if task.origin is None or step.of == task.key]

    def locks(self) -> list[Lock]:
        """Locks in force, oldest first."""
        return list(self._state.locks.values())

    async def set_lock(self, selector: Selector, reason: str, by: str) -> LockSet:
        """The lock, in force from now on: on the feed at once, in the ledger when it can (invariant 3).

        Raises:
            NotAllowedError: there are too many locks.
        """
        if len(self._state.locks) >= MAX_LOCKS:
            raise NotAllowedError(f"{MAX_LOCKS} locks are in force: lift one, or lock by a wider selector")
        # No earlier than anything that was granted: once it is lifted, verifiers go by this, and a clock goes back a little.
        now = max(self._clock.now(), self._state.latest or self._clock.now())
        lock = Lock(ulid(now, self._entropy(ULID_RANDOM_BYTES)), selector, reason, now, by)
        self._state.locks[lock.lock_id] = lock
        self._state.revision += 1
        self._feed.publish(lock)
        receipt = self._journal.record_end(self._locked(lock))
        # From here on nothing that it matches goes on. Resources are told before every such step has ended.
        ended = await self._undertakings.finish(self._lock_out(lock))
        try:
            await receipt.durable()
        except UnrecordedError:
            return LockSet(lock, durable=False, ended_steps=ended)
        return LockSet(lock, durable=True, ended_steps=ended)

    async def lift_lock(self, lock_id: str, reason: str, by: str) -> Lock:
        """The lock that is no more, once that is durable; what it ended stays dead.

        Raises:
            NotFoundError: no such lock is in force.
            UnrecordedError: the ledger cannot record, so the lock stays.
        """
        lock = self._state.locks.get(lock_id)
        if lock is None:
            raise NotFoundError(f"no lock {lock_id} is in force")
        return await self._undertakings.finish(self._lift(lock, reason, by))

    async def _lift(self, lock: Lock, reason: str, by: str) -> Lock:
        lock_id = lock.lock_id
        lifting = Event(EventType.LOCK_LIFTED, self._clock.now(), {**_described(lock), "reason": reason, "by": by})
        try:
            await self._journal.record(lifting).durable()
        except UnrecordedError:
            if lock_id in self._state.locks:
                # The record may become durable after all, and the next start would then not know of the lock.
                self._journal.record_end(self._locked(lock))
            raise
        if self._state.locks.pop(lock_id, None) is not None:
            # While it was in force nothing that matches was issued: what must stay dead is older than the lock itself.
            since = lock.issued_at
            lifted = LiftedLock(lock_id, lock.selector, since, since + LONGEST_GRANT + KEPT)
            self._state.lifted.append(lifted)
            self._state.revision += 1
            self._feed.publish(lifted)
            logger.warning("Lock %s was lifted by %s.", lock_id, by, extra={"event": "lock_lifted"})
        return lock

    async def reload_policy(self, by: str) -> Reloaded:
        """Loads the directory anew and swaps the set whole; a broken one is refused and the running one stays."""
        return await self._undertakings.finish(self._reload(by))

    async def _reload(self, by: str) -> Reloaded:
        async with self._reloading:
            try:
                policy = await asyncio.get_running_loop().run_in_executor(None, self._load, self._asked())
            except PolicyRefusedError as error:
                refused = {
                    "by": by,
                    "policy": self._state.policy.digest,
                    "findings": _recorded(error.findings),
                    "found": len(error.findings),
                }
                self._journal.record_end(Event(EventType.POLICY_REFUSED, self._clock.now(), refused))
                self._observer.count(Count.RELOAD, "refused")
                logger.error(  # noqa: TRY400 - its findings are the operator's answer, and in the ledger
                    "The policy directory is refused with %d findings; set %s stays. See: stepgrant policy check",
                    len(error.findings), self._state.policy.digest, extra={"event": "policy_refused"},
                )  # fmt: skip
                return Reloaded(False, self._state.policy.digest, error.findings, 0, 0)
            try:
                await self._journal.record(self.activation(policy, by)).durable()
            except UnrecordedError:
                # The record may become durable after all; the last word on record is what is in force.
                self._journal.record_end(self.activation(self._state.policy, by))
                self._observer.count(Count.RELOAD, "unrecorded")
                unrecorded = Finding(
                    "catalog.yaml", 0, "", "the ledger cannot record the activation; the running set stays."
                )
                return Reloaded(False, self._state.policy.digest, (unrecorded,), 0, 0)
            ended = await self._activate(policy, by)
            self._observer.count(Count.RELOAD, "activated")
            logger.info(
                "Policy set %s is active, by %s; it ended %d steps.", policy.digest, by, ended,
                extra={"event": "policy_activated"},
            )  # fmt: skip
            return Reloaded(True, policy.digest, (), ended, policy.case_count)

    def _asked(self) -> list[Question]:
        """What live steps were decided on."""
        steps = (step for task in self._state.tasks.values() for step in task.live.values())
        questions = (question for step in steps for question in step.questions)
        return list(islice(questions, MAX_REHEARSED))

    def _load(self, asked: Sequence[Question]) -> PolicySet:
        """The set, on a thread of its own. What it prepares at the first question of a kind, it has prepared."""
        policy = self._source.load()
        for question in asked:
            # Nothing is decided here, and the step itself is looked at once the set is active.
            with suppress(Exception):
                policy.evaluate(question)
        return policy

    def activation(self, policy: PolicySet, by: str) -> Event:
        """The event of a set that becomes the active one."""
        data = {"policy": policy.digest, "by": by, "cases": policy.case_count}
        return Event(EventType.POLICY_ACTIVATED, self._clock.now(), data)

    def _locked(self, lock: Lock) -> Event:
        data = {**_described(lock), "reason": lock.reason, "by": lock.issued_by}
        return Event(EventType.LOCK_SET, self._clock.now(), data)

    async def _activate(self, policy: PolicySet, by: str) -> int:
        # Kept to the end: what a large set takes to be forgotten must not lie before what the new one ends.
        former = self._state.policy
        self._state.policy, self._state.activated_by = policy, by
        self._state.revision += 1
        if policy.catalog.budgets != former.catalog.budgets:
            for (name, _), book in list(self._state.books.items()):
                _rewindow(policy, name, book)
            for task in self._state.tasks.values():
                for name, book in task.shared.books.items():
                    _rewindow(policy, name, book)
        self._feed.publish_catalog(former.catalog)
        return await self._endings.reconsider_all()

    async def _lock_out(self, lock: Lock) -> int:
        ended = 0
        async for task, step in self._endings.live_steps():
            if falls_under(lock, task, tool=step.declared.tool, target=step.target):
                before = task.count_live()
                self._endings.lock_out(task, step, lock)
                ended += before - task.count_live()
        if lock.selector.subject is not None:
            # The subject, not the workload, is out: its tasks do not wait for better days.
            for task in [
                task for task in self._state.tasks.values() if falls_under(lock, task, tool=None, target=None)
            ]:
                self._endings.lock_out_task(task, lock)
        ended += await self._endings.lock_out_assigned(lock)
        logger.warning(
            "Lock %s is in force, set by %s; it ended %d steps.",
            lock.lock_id, lock.issued_by, ended, extra={"event": "lock_set"},
        )  # fmt: skip
        return ended


def _rewindow(policy: PolicySet, name: str, book: Book) -> None:
    budget = policy.catalog.budgets.get(name)
    if budget is not None and book.window is not None and budget.window is not None:
        book.window = budget.window


def _recorded(findings: Sequence[Finding]) -> list[str]:
    """Findings as the ledger takes them: what it cannot take closes it, and names of files may hold anything."""
    texts = (str(finding).encode("utf-8", "replace").decode("utf-8") for finding in findings[:MAX_RECORDED_FINDINGS])
    return [text[:MAX_RECORDED_FINDING] for text in texts]


def _described(lock: Lock) -> dict[str, object]:
    selector = lock.selector
    return {
        "lock": lock.lock_id,
        "selector": {
            "workload": selector.workload,
            "task_type": selector.task_type,
            "tool": selector.tool,
            "target": selector.target,
            **({"subject": selector.subject} if selector.subject is not None else {}),
        },
    }


def _task_view(task: Task) -> TaskView:
    return TaskView(
        task.task_id, task.task_type.name, task.workload, task.opened_at, task.expires_at, len(task.live),
        len(task.shared.steps), tuple(sorted(task.shared.labels)), voucher_of(task), dispatcher_of(task), task.on_behalf_of or "",
        task.branch_id, task.chain,
    )  # fmt: skip


def _step_view(step: Step) -> StepView:
    return StepView(
        step_id=step.key[1],
        tool=step.declared.tool,
        target=step.target,
        state=step.state.value,
        reason=step.reason or step.code,
        declared_at=step.declared_at,
        expires_at=step.held.lifetime.expires_at if step.live else None,
        parent_step_id=step.parent.key[1] if step.parent is not None else None,
    )
