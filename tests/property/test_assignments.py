"""ID-14: whoever assigns, opens, withdraws and locks in whatever order, at whatever pace of the ledger: one task each at most."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepgrant.errors import InvalidInputError
from stepgrant.selector import Selector
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.assignments import AssignmentState
from stepgrant_gateway.core.boundary import Assigned
from stepgrant_gateway.core.errors import NotFoundError, UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit.assigned import DESK, assign_task, opened_with, write_assigned
from tests.kit.heart import OPERATOR, Heart, heart
from tests.kit.loop import settled
from tests.kit.stepped_store import SteppedStore

DEEDS = ("assign", "assign", "open", "open", "open", "withdraw", "lock", "lift", "commit", "commit", "late", "wait")
ROUNDS = 12
"""Turns of the loop after which whoever can go on has gone on."""


class Play:
    """Two tickets, one dispatcher, one agent, one operator."""

    def __init__(self, built: Heart, store: SteppedStore) -> None:
        self.built, self.store = built, store
        self.until = built.clock.now() + timedelta(hours=1)
        self.ids: dict[bytes, str] = {}
        self.leases: Counter[str] = Counter()
        self.asking: list[asyncio.Task[None]] = []

    async def act(self, what: str, which: int) -> None:
        """One deed, as far as it goes at once; whatever has come of it by then, the assignments hold."""
        ticket = bytes([which]) * 32
        match what:
            case "assign" | "open" | "withdraw":
                self.begin(getattr(self, what)(ticket))
            case "lock":
                self.begin(self.built.operating.set_lock(Selector(workload=DESK), "a race", OPERATOR))
            case "lift" if self.built.state.locks:
                self.begin(self.built.operating.lift_lock(next(iter(self.built.state.locks)), "over", OPERATOR))
            case "commit":
                await self.commit()
            case "late":  # Whoever waits for the ledger hears that it could not record.
                self.built.clock.advance(timedelta(seconds=3))
            case "wait":
                self.built.clock.advance(timedelta(minutes=20))
        await self.go_on()
        self.hold()

    def hold(self) -> None:
        """What is true at every moment."""
        opened = [task.shared.assignment for task in self.built.state.tasks.values()]
        assert all(one is not None and one.state is AssignmentState.TAKEN for one in opened), (
            "withdrawn, and still open"
        )
        names = [one.assignment_id for one in opened if one is not None]
        assert len(names) == len(set(names)), "two tasks by one assignment"
        assert not (opened and self.built.state.locks), "its dispatcher is locked, and the task still open"

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        self.asking.append(asyncio.get_running_loop().create_task(self.finish(work)))

    async def finish(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except (UnrecordedError, NotFoundError, InvalidInputError):
            return  # Not recorded, withdrawn or over already, or past its time.

    async def assign(self, ticket: bytes) -> None:
        request = assign_task(self.built, ticket=ticket, until=self.until)
        answer = await self.built.assigning.assign(self.built.peer(DESK), request)
        if isinstance(answer, Assigned):
            assert self.ids.setdefault(ticket, answer.assignment_id) == answer.assignment_id, "made twice"

    async def open(self, ticket: bytes) -> None:
        lease = await opened_with(self.built, ticket)
        if isinstance(lease, TaskLease):
            self.leases[self.ids[ticket]] += 1

    async def withdraw(self, ticket: bytes) -> None:
        await self.built.assigning.withdraw(self.built.peer(DESK), self.ids.get(ticket, "01KAJ7RM000000000000000000"))

    async def commit(self) -> None:
        """The ledger takes what is before it, if anything is."""
        if self.built.journal._group:
            before = self.built.journal.position
            self.store.permits.release()
            await settled(lambda: self.built.journal.position > before)

    async def go_on(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Everybody gets an answer, and the ledger has all that happened."""
        while not all(task.done() for task in self.asking) or self.built.journal._group:
            await self.commit()
            await self.go_on()
        for task in self.asking:
            task.result()


def delivered(events: Sequence[Event]) -> Counter[str]:
    """How many tasks of each assignment were handed out, as the ledger tells it."""
    void = {event.data["task"] for event in events if event.data.get("code") == "undelivered" and "task" in event.data}
    opened = (event.data for event in events if event.type is EventType.TASK_OPENED)
    return Counter(data["assignment"] for data in opened if data["task"] not in void)


async def play(policy: LoadedPolicySet, schedule: Sequence[tuple[str, int]]) -> None:
    store = SteppedStore()
    async with heart(store, policy=policy) as built:
        store.holding = True
        scene = Play(built, store)
        for what, which in schedule:
            await scene.act(what, which)
        await scene.end()
        store.holding = False
        events = await built.recorded()
        assert max(scene.leases.values(), default=0) <= 1
        assert max(delivered(events).values(), default=0) <= 1
        assert scene.leases.keys() <= delivered(events).keys()
        now = built.clock.now()
        told = {name: one for name, one in fold(events).assignments.items() if one.until > now}
        assert told == built.state.assignments


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> LoadedPolicySet:
    return load_policy(write_assigned(tmp_path_factory.mktemp("assigned")))


schedules = st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(1, 2)), min_size=3, max_size=16)


@given(schedules)
@example([("assign", 1), ("commit", 1), ("open", 1), ("late", 1), ("open", 1), ("commit", 1), ("commit", 1)])
@example([("assign", 1), ("late", 1), ("assign", 1), ("commit", 1), ("commit", 1), ("commit", 1), ("open", 1)])
@example([("assign", 1), ("commit", 1), ("open", 1), ("withdraw", 1), ("commit", 1), ("open", 1)])
@settings(max_examples=60, deadline=None)
def test_id_14_an_assignment_opens_one_task_at_most_whatever_happens_at_once(
    policy: LoadedPolicySet, schedule: list[tuple[str, int]]
) -> None:
    asyncio.run(play(policy, schedule))
