"""Whatever happens at once: agents, resources, operators, a failing ledger and time, in any order (INV-03 and INV-05)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from stepgrant.errors import ProtocolError, TaskClosedError
from stepgrant.ids import ulid
from stepgrant.intent import from_python
from stepgrant.selector import Selector
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.boundary import OpenTask, Outcome, ReportStep, StepGranted
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.grants import MAX_LINGER
from stepgrant_gateway.core.ledger import decode_event
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import OPERATOR, ORDERS, REFUND, Heart, heart

ACTS = 150
CALLS = (
    ("orders.get", {"order_id": "ord_00000042"}),
    ("orders.search", {"query": "shoes"}),
    ("mail.read", {"mailbox": "support"}),
    ("mail.send", {"to": ["ann@dev.stepgrant.test"], "subject": "s", "body": "b"}),
    ("orders.refund", {"order_id": "ord_00000042", "amount": 10}),
)
DEEDS = {"open": 4, "declare": 36, "renew": 10, "redeem": 10, "report": 6, "lock": 4, "lose": 4, "take": 8, "fail": 6,
         "hang": 4, "hang up": 4, "wait": 12}  # fmt: skip


class Storm:
    """Everybody at once. What an agent is given is held against the ledger and the feed at that very moment."""

    def __init__(self, built: Heart, store: FaultyStore, seed: int) -> None:
        self.built = built
        self.store = store
        self.random = random.Random(seed)
        self.leases: list[TaskLease] = []
        self.tokens: dict[str, bytes] = {}
        self.wins: Counter[bytes] = Counter()
        self.given: dict[str, tuple[StepGranted, TaskLease]] = {}
        self.running: dict[asyncio.Task[None], str] = {}

    def events(self) -> list[Event]:
        return [decode_event(record.body) for record in self.store.inner.read(self.built.instance, 0, 100_000)]

    def act(self, deed: str) -> None:
        match deed:
            case "open":
                self.start(deed, self.open())
            case "declare" if self.leases:
                self.start(deed, self.declare(self.random.choice(self.leases)))
            case "renew" | "redeem" | "report" if self.given:
                grant, lease = self.random.choice(list(self.given.values()))
                self.start(deed, getattr(self, deed)(grant, lease))
            case "lock":
                self.start(deed, self.lock())
            case "lose" if self.leases:
                self.random.choice(self.leases).lost("stream_lost", "the stream ended.")
            case "take" if self.tokens:
                token = self.random.choice(list(self.tokens.values()))
                for _ in range(self.random.choice([1, 2, 3])):
                    self.start(deed, self.take_up(token))
            case "fail":
                fault = self.random.choice(["refuse", "lose_answer", "mute"])
                setattr(self.store, fault, not getattr(self.store, fault))
            case "hang":
                (self.store.block if self.store.free.is_set() else self.store.free.set)()
            case "hang up":
                for task in [task for task, deed in self.running.items() if deed in {"redeem", "lock"}]:
                    task.cancel()
            case "wait":
                self.built.clock.advance(timedelta(milliseconds=self.random.choice([10, 500, 1500, 3000])))

    def start(self, deed: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.running[task] = deed
        task.add_done_callback(self.running.pop)

    async def open(self) -> None:
        peer = self.built.peer(lives=timedelta(seconds=self.random.choice([20, 300])))
        asked = OpenTask("Refund", from_python(REFUND), "a test", b"k" * 32)
        lease = await self.built.tasks.open(peer, asked, lambda pushed: None)
        if isinstance(lease, TaskLease):
            self.hold(lease)

    async def take_up(self, token: bytes) -> None:
        lease = await self.built.take(token, peer=self.built.peer(leaf=self.built.entropy(8)), pushed=[])
        if isinstance(lease, TaskLease):
            self.wins[token] += 1
            self.hold(lease)

    def hold(self, lease: TaskLease) -> None:
        self.leases.append(lease)
        self.tokens[lease.opened.task_id] = lease.resume_token()

    async def declare(self, lease: TaskLease) -> None:
        task = self.built.state.tasks.get(lease.opened.task_id)
        parent = self.random.choice([None, None, None, *(task.live if task else ())])
        with suppress(TaskClosedError):
            self.take(await lease.declare(self.built.intent(*self.random.choice(CALLS), parent=parent)), lease)

    async def renew(self, grant: StepGranted, lease: TaskLease) -> None:
        with suppress(TaskClosedError, ProtocolError):
            self.take(await lease.renew(grant.step_id), lease)

    def take(self, answer: object, lease: TaskLease) -> None:
        if isinstance(answer, StepGranted):
            self.given[answer.grant_id] = (answer, lease)
            assert answer.grant_id in {event.data.get("grant") for event in self.events()}, "a token before its record"
            assert answer.uses != 0

    async def redeem(self, grant: StepGranted, _: TaskLease) -> None:
        one = ulid(self.built.clock.now(), self.built.entropy(10))
        with suppress(UnrecordedError):
            await self.built.redeeming.redeem(ORDERS, ORDERS, grant.grant_id, one)

    async def report(self, grant: StepGranted, lease: TaskLease) -> None:
        with suppress(TaskClosedError):
            lease.report(ReportStep(grant.step_id, self.random.choice(list(Outcome)), None, ""))

    async def lock(self) -> None:
        selector = Selector(tool=self.random.choice(["orders.get", "orders.search", "mail.*"]))
        locked = await self.built.operating.set_lock(selector, "a test", OPERATOR)
        with suppress(UnrecordedError):
            await self.built.operating.lift_lock(locked.lock.lock_id, "over", OPERATOR)

    def check_feed(self) -> None:
        steps = (step for task in self.built.state.tasks.values() for step in task.live.values())
        live = {step.held.grant_id for step in steps}
        for grant_id, (grant, _) in self.given.items():
            if grant_id not in live and grant.expires_at > self.built.clock.now():
                assert self.built.known_dead(grant_id), "a dead grant that the feed does not name"

    async def settle(self) -> None:
        """The weather is fine again; everybody hears an answer, and goes."""
        self.store.refuse = self.store.lose_answer = self.store.mute = False
        self.store.free.set()
        if self.running:
            _, waiting = await self.built.while_time_passes(asyncio.wait(list(self.running), timeout=20))
            assert not waiting, "somebody waits for ever"
        for lease in self.leases:
            lease.lost("stream_lost", "the stream ended.")
        self.built.clock.advance(MAX_LINGER)
        last = self.built.journal.record_end()
        while not last.done():
            with suppress(UnrecordedError):
                await self.built.while_time_passes(last.durable())


@pytest.mark.parametrize("seed", range(10))
async def test_no_token_before_its_record_no_dead_grant_unnamed_and_each_step_ends_once(seed: int) -> None:
    store = FaultyStore()
    async with heart(store) as built:
        storm = Storm(built, store, seed)
        for _ in range(3):
            await storm.open()
            for tool, arguments in CALLS[:3]:
                storm.take(await storm.leases[-1].declare(built.intent(tool, arguments)), storm.leases[-1])
        for deed in storm.random.choices(list(DEEDS), list(DEEDS.values()), k=ACTS):
            storm.act(deed)
            await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(int))])
            storm.check_feed()
        await storm.settle()

        ends: Counter[tuple[str, str]] = Counter()
        for event in storm.events():
            step = (event.data.get("task", ""), event.data.get("step", ""))
            if event.type in {EventType.STEP_GRANTED, EventType.STEP_RENEWED}:
                assert not ends[step], "granted after its end"
                ends.setdefault(step, 0)
            elif event.type is EventType.STEP_ENDED:
                ends[step] += 1
        assert set(ends.values()) == {1}
        assert set(storm.wins.values()) <= {1}, "two streams have the same task"
        counts = Counter(event.type for event in storm.events())
        assert counts[EventType.TASK_CLOSED] == counts[EventType.TASK_OPENED]

        built.clock.advance(timedelta(minutes=2))
        assert not built.state.tasks
        assert not built.state.resumable
        assert not built.state.grants
        assert not any(book._live for book in built.state.books.values())
