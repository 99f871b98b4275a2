"""ID-16: whoever hands on, opens, ends, loses and locks in whatever order, at whatever pace of the ledger: no branch outlives its step."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepgrant.errors import TaskClosedError
from stepgrant.selector import Selector
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.app.open_tasks import MAX_LIVE_STEPS
from stepgrant_gateway.core.boundary import HandedOff, HandOffStep, Outcome, ReportStep, StepGranted
from stepgrant_gateway.core.errors import NotFoundError, UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History, fold
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit import handed as fixtures
from tests.kit.handed import CLERK, GET, MAIL, PACKER, READS, RUNNER, SEARCH, WHOLE, opened_by
from tests.kit.heart import AGENT, OPERATOR, Heart, heart
from tests.kit.loop import settled
from tests.kit.stepped_store import SteppedStore

RECEIVERS = (CLERK, PACKER, RUNNER)
CALLS = {"search": ("orders.search", SEARCH), "get": ("orders.get", GET), "mail": ("mail.send", MAIL)}
DEEDS = (
    *("search", "get", "mail", "child", "crowd"),
    *("hand off", "hand off", "hand off", "open", "open", "open twice", "open wrongly", "hang up"),
    *("report", "renew", "lose", "take up", "close", "another", "lock", "lift"),
    *("slow", "fast", "commit", "commit", "late", "wait"),
)
BEGINNING = (("another", 0, 0), ("search", 0, 0), ("hand off", 0, 0))
ROUNDS = 12
"""Turns of the loop after which whoever can go on has gone on."""


@dataclass(slots=True)
class Stream:
    """What one workload has, and what it would take it up again with."""

    lease: TaskLease
    of: str
    jkt: bytes
    token: bytes


class Play:
    """One agent that opens tasks, three workloads that steps are handed on to, one operator; `slow`: the ledger waits to be let."""

    def __init__(self, built: Heart, store: SteppedStore) -> None:
        self.built, self.store = built, store
        self.slow = self.late = False
        self.streams: list[Stream] = []
        self.offers: list[tuple[str, bytes]] = []
        self.opened: Counter[str] = Counter()
        self.given_to: set[str] = set()
        self.asking: list[asyncio.Task[None]] = []
        self.opening: list[asyncio.Task[None]] = []

    async def act(self, deed: str, whose: int, which: int) -> None:
        """One deed, as far as it goes at once; whatever has come of it by then, what must hold holds."""
        stream = self.streams[whose % len(self.streams)] if self.streams else None
        match deed:
            case "another":
                self.begin(self.open_task())
            case "open" | "open wrongly" | "open twice" if self.offers:
                receiver, ticket = self.offers[whose % len(self.offers)]
                of = RECEIVERS[(RECEIVERS.index(receiver) + 1) % 3] if deed == "open wrongly" else receiver
                self.opening += [self.begin(self.open(of, ticket)) for _ in range(1 + (deed == "open twice"))]
            case "hang up":
                for task in self.opening:
                    task.cancel()
            case "lock":
                locked = (AGENT, *RECEIVERS)[whose % 4]
                selector = Selector(workload=locked, tool=(None, "orders.get")[which % 2])
                self.begin(self.built.operating.set_lock(selector, "a race", OPERATOR))
            case "lift" if self.built.state.locks:
                self.begin(self.built.operating.lift_lock(next(iter(self.built.state.locks)), "over", OPERATOR))
            case "slow" | "fast":
                self.slow = deed == "slow"
            case "commit":
                await self.commit()
            case "late" | "wait":  # Whoever waits for the ledger hears that it could not record.
                self.late |= bool(self.built.journal.waiting)
                self.built.clock.advance(timedelta(seconds=3 if deed == "late" else 20))
            case _ if stream is not None:
                self.work(deed, stream, which)
        await self.go_on()
        self.hold()

    def work(self, deed: str, stream: Stream, which: int) -> None:
        """What a workload does on its stream."""
        task = self.built.state.tasks.get(stream.lease.opened.branch_id or stream.lease.opened.task_id)
        live = list(task.live) if task is not None else []
        step_id = live[which % len(live)] if live else None
        match deed:
            case "search" | "get" | "mail":
                self.begin(self.declare(stream, deed))
            case "crowd":
                for _ in range(MAX_LIVE_STEPS // 2):
                    self.begin(self.declare(stream, "search"))
            case "child" if step_id:
                self.begin(self.declare(stream, "search", step_id))
            case "hand off" if step_id:
                self.begin(self.hand_off(stream, step_id, RECEIVERS[which % 3]))
            case "report" if step_id:
                outcome = (Outcome.COMPLETED, Outcome.FAILED)[which % 2]
                self.begin(self.of(stream, "report", ReportStep(step_id, outcome, None, "")))
            case "renew" if step_id:
                self.begin(self.of(stream, "renew", step_id))
            case "lose":
                stream.lease.lost("stream_lost", "gone")
            case "close":
                self.begin(self.of(stream, "close", Outcome.COMPLETED))
            case "take up":
                self.begin(self.take_up(stream))

    def hold(self) -> None:
        """What is true at every moment."""
        state = self.built.state
        for key, task in state.tasks.items():
            assert key == task.key
            assert task.open
            for origin in task.lineage():
                assert origin.step.live, "a branch is open whose step has ended"
                assert state.tasks.get(origin.giver.key) is origin.giver, "a branch is open whose task is not"
            if task.origin is not None:
                assert task.shared.branches[key] is task
                assert task.root.shared is task.shared
            else:
                assert all(state.tasks.get(name) is branch for name, branch in task.shared.branches.items())
                assert sum(len(one.live) for one in task.family()) <= MAX_LIVE_STEPS
            for step in task.live.values():
                assert all(above.live for above in step.ancestors()), "a step lives whose parent does not"
                assert step.parent is not None or task.origin is None, "a step of a branch that hangs on nothing"
                tools = {None, step.declared.tool}
                locked = {one.selector.workload for one in state.locks.values() if one.selector.tool in tools}
                assert not locked & set(task.chain), "a step lives that a workload has part in that is locked"
        for digest, origin in state.hand_offs.items():
            assert digest == origin.hand_off.ticket_sha256
            assert origin.step.live, "an offer outlives its step"
            assert origin.hand_off.hand_off_id not in state.tasks, "an offer that was taken can be taken"
        for step in state.grants.values():
            if step.live:
                assert state.tasks[step.of].live[step.key[1]] is step, "a grant lives that belongs to no open task"
        assert all(task.open for task in state.resumable.values()), "what is over is kept to be taken up"
        assert max(self.opened.values(), default=0) <= 1, "two branches by one hand-off"

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        self.asking.append(task := asyncio.get_running_loop().create_task(self.finish(work)))
        return task

    async def finish(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except (UnrecordedError, NotFoundError, TaskClosedError, asyncio.CancelledError):
            return  # Not recorded, lifted or over already, or nobody waits for it any more.

    async def open_task(self) -> None:
        jkt = bytes([len(self.asking) % 256]) * 32
        answer = await self.built.ask(jkt=jkt)
        if isinstance(answer, TaskLease):
            self.keep(answer, AGENT, jkt)

    async def open(self, of: str, ticket: bytes) -> None:
        answer = await opened_by(self.built, ticket, of)
        if isinstance(answer, TaskLease):
            assert (of, ticket) in self.offers, "opened by whom it was not handed on to"
            self.opened[answer.opened.branch_id] += 1
            self.keep(answer, of, b"r" * 32)

    def keep(self, lease: TaskLease, of: str, jkt: bytes) -> None:
        self.streams.append(Stream(lease, of, jkt, lease.resume_token()))

    async def declare(self, stream: Stream, call: str, parent: str | None = None) -> None:
        answer = await stream.lease.declare(self.built.intent(*CALLS[call], parent=parent))
        if isinstance(answer, StepGranted) and call != "mail":
            self.given_to.add(stream.of)

    async def hand_off(self, stream: Stream, step_id: str, to: str) -> None:
        envelope = READS if stream.of == CLERK else WHOLE
        answer = await stream.lease.hand_off(HandOffStep(step_id, to, envelope, "a part of it"))
        if isinstance(answer, HandedOff):
            self.offers.append((to, answer.ticket))

    async def of(self, stream: Stream, what: str, said: object) -> None:
        answer = getattr(stream.lease, what)(said)
        if what == "renew":
            await answer

    async def take_up(self, stream: Stream) -> None:
        peer = self.built.peer(stream.of, leaf=self.built.entropy(8))
        answer = await self.built.take(stream.token, peer=peer, jkt=stream.jkt, pushed=[])
        if isinstance(answer, TaskLease):
            self.keep(answer, stream.of, stream.jkt)

    async def commit(self) -> None:
        """The ledger takes what is before it, if anything is."""
        if self.built.journal._group:
            before = self.built.journal.position
            self.store.permits.release()
            await settled(lambda: self.built.journal.position > before)

    async def go_on(self) -> None:
        await self.turn()
        while not self.slow and self.built.journal._group:
            await self.commit()
            await self.turn()

    async def turn(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Everybody gets an answer, and the ledger has all that happened."""
        while not all(task.done() for task in self.asking) or self.built.journal._group:
            await self.commit()
            await self.turn()
        for task in self.asking:
            if not task.cancelled():
                task.result()
        self.hold()


def spent(history: History) -> dict[object, Decimal]:
    """What the record says was spent of each budget of a workload."""
    sums = {key: sum((one.amount for one in grains.values()), Decimal(0)) for key, grains in history.spent.items()}
    return {key: amount for key, amount in sums.items() if amount}


def agree(scene: Play, events: Sequence[Event]) -> None:
    """The record tells what the gateway knows; with a late ledger, which has what nobody was told of, at least that."""
    told, state, late = fold(events), scene.built.state, scene.late
    tasks = state.tasks.values()
    assert set(told.open_tasks) == {task.key for task in tasks if task.origin is None}
    assert set(told.open_branches) == {task.key for task in tasks if task.origin is not None}
    live = {step.key: step.held.grant_id for task in tasks for step in task.live.values()}
    assert told.live_steps.keys() == live.keys()
    books = {key: book.spent(scene.built.clock.now(), ("", "")) for key, book in state.books.items()}
    assert all(spent(told).get(key, 0) >= amount for key, amount in books.items())
    assert tasks or scene.given_to <= told.labels.workloads.keys(), "what a workload has seen is forgotten"
    if not late:
        assert spent(told) == {key: amount for key, amount in books.items() if amount}
        assert {key: step.grant for key, step in told.live_steps.items()} == live
        assert tasks or told.labels == state.memory
    opened = Counter(event.data["branch"] for event in events if event.type is EventType.BRANCH_OPENED)
    closed = Counter(event.data["branch"] for event in events if event.type is EventType.BRANCH_CLOSED)
    assert opened - closed == Counter(told.open_branches.keys()), "a branch that is not open was never closed"
    assert not (closed - opened).keys() & scene.opened.keys(), "closed twice, and it was handed out"


async def play(policy: LoadedPolicySet, schedule: Sequence[tuple[str, int, int]]) -> None:
    store = SteppedStore()
    async with heart(store, policy=policy) as built:
        store.holding = True
        scene = Play(built, store)
        try:
            for deed, whose, which in (*BEGINNING, *schedule):
                await scene.act(deed, whose, which)
            await scene.end()
        finally:
            store.permits.release(1000)
        agree(scene, await built.recorded())
        built.tasks.end_all("draining", "the play is over.")
        scene.hold()
        assert not built.state.tasks
        assert not built.state.hand_offs
        built.clock.advance(timedelta(minutes=20))
        assert not built.state.grants
        assert not len(built.deadlines), "something waits to end what has ended"
        agree(scene, await built.recorded())


directory, policy = fixtures.directory, fixtures.loaded

schedules = st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=24)


@given(schedules)
@example([("slow", 0, 0), ("open", 0, 0), ("close", 0, 0), ("late", 0, 0)])
@example([("slow", 0, 0), ("open twice", 0, 0), ("late", 0, 0), ("open", 0, 0), ("commit", 0, 0), ("fast", 0, 0)])
@example([("open", 0, 0), ("search", 1, 0), ("hand off", 1, 1), ("open", 1, 0), ("get", 2, 0), ("report", 0, 0)])
@example([("open", 0, 0), ("mail", 1, 0), ("slow", 0, 0), ("get", 1, 0), ("lock", 0, 1), ("commit", 0, 0)])
@example([("slow", 0, 0), ("open", 0, 0), ("report", 0, 0), ("fast", 0, 0)])
@example([("open", 0, 0), ("lose", 1, 0), ("lose", 0, 0), ("take up", 1, 0), ("take up", 0, 0), ("search", 2, 0)])
@settings(max_examples=60, deadline=None)
def test_id_16_no_branch_outlives_its_step_whatever_happens_at_once(
    policy: LoadedPolicySet, schedule: list[tuple[str, int, int]]
) -> None:
    asyncio.run(play(policy, schedule))
