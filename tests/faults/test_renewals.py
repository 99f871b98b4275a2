"""TK-13: a renewal at the last moment, at the greatest age, after a revocation and beside one."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from stepgrant.errors import Denial, TaskClosedError
from stepgrant.ids import ulid
from stepgrant.selector import Selector
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.boundary import Outcome, ReportStep, StepGranted
from tests.kit.heart import OPERATOR, ORDERS, Heart, heart
from tests.kit.loop import settled
from tests.kit.stepped_store import SteppedStore

TOOL, ARGUMENTS = "orders.search", {"query": "shoes"}
MOMENT = timedelta(milliseconds=1)
TASKS, STEPS = 4, 16
"""64 renewals at once."""


async def redeemed(built: Heart, grant_id: str) -> bool:
    one = ulid(built.clock.now(), built.entropy(10))
    return (await built.redeeming.redeem(ORDERS, ORDERS, grant_id, one)).accepted


@pytest.mark.parametrize(("before", "renewed"), [(MOMENT, True), (timedelta(0), False), (-MOMENT, False)])
async def test_tk_13_a_grant_is_renewed_until_its_last_millisecond_and_not_from_its_end_on(before, renewed) -> None:
    """INV-04 and INV-05: what has expired is over, and stays over."""
    async with heart() as built:
        lease = await built.open()
        first = await built.granted(lease, TOOL, ARGUMENTS)
        built.clock.advance(first.expires_at - before - built.clock.now())
        answer = await lease.renew(first.step_id)
        assert isinstance(answer, StepGranted) is renewed
        assert not await redeemed(built, first.grant_id)


async def test_tk_13_renewals_end_with_the_steps_age_and_never_lie_beyond_it() -> None:
    """INV-04: renewed again and again, a step ends when it would have ended, and so does its last grant."""
    async with heart() as built:
        lease = await built.open(peer=built.peer(lives=timedelta(hours=10)))
        answer: StepGranted | Denial = await built.granted(lease, TOOL, ARGUMENTS)
        assert isinstance(answer, StepGranted)
        ends, renewals = answer.step_expires_at, 0
        while isinstance(answer, StepGranted):
            assert built.clock.now() < answer.expires_at <= answer.step_expires_at == ends
            last, renewals = answer, renewals + 1
            built.clock.advance((answer.expires_at - built.clock.now()) / 2)
            answer = await lease.renew(answer.step_id)
        assert renewals > 2
        built.clock.advance(ends - built.clock.now())
        assert not await redeemed(built, last.grant_id)


class Race:
    """Many renewals, one end, and a ledger that goes on when the schedule says so."""

    def __init__(self, built: Heart, store: SteppedStore, leases: list[TaskLease], way: str) -> None:
        self.built, self.store, self.leases, self.way = built, store, leases, way
        self.given: list[StepGranted] = []
        self.ended = False
        self.after: list[StepGranted] = []
        self.locking: asyncio.Future[object] | None = None

    async def renew(self, lease: TaskLease, step_id: str) -> None:
        try:
            answer = await lease.renew(step_id)
        except TaskClosedError:
            return
        if isinstance(answer, StepGranted):
            (self.after if self.ended else self.given).append(answer)

    async def end(self) -> None:
        """Ends every step. In force when it first waits: what is answered from then on is answered after it."""
        match self.way:
            case "lock":
                self.locking = asyncio.ensure_future(
                    self.built.operating.set_lock(Selector(tool=TOOL), "a race", OPERATOR)
                )
                await settled(lambda: bool(self.built.state.locks))
            case "stream lost":
                for lease in self.leases:
                    lease.lost("identity_lost", "the identity is gone.")
            case "report":
                for lease, step_id in self.live():
                    lease.report(ReportStep(step_id, Outcome.COMPLETED, None, ""))
        self.ended = True
        # A lock is in force at once, and goes through the live steps in turns.
        await settled(lambda: not self.live())
        self.check()

    def live(self) -> list[tuple[TaskLease, str]]:
        tasks = self.built.state.tasks
        return [
            (lease, step_id)
            for lease in self.leases
            if lease.opened.task_id in tasks
            for step_id in tasks[lease.opened.task_id].live
        ]

    def check(self) -> None:
        """Nothing is live, and every resource was told of every grant that anybody was given."""
        assert self.live() == []
        assert [one.grant_id for one in self.given if not self.built.known_dead(one.grant_id)] == []

    async def commit(self) -> None:
        if self.built.journal._group:
            before = self.built.journal.position
            self.store.permits.release()
            await settled(lambda: self.built.journal.position > before)


@pytest.mark.parametrize("way", ["lock", "stream lost", "report"])
@pytest.mark.parametrize("seed", range(2))
async def test_tk_13_of_64_renewals_beside_an_end_none_leaves_a_grant_alive(way: str, seed: int) -> None:
    """INV-05: whoever is told first, and whatever the ledger had taken by then."""
    chance, store = random.Random(seed), SteppedStore()
    async with heart(store) as built:
        leases = [await built.open() for _ in range(TASKS)]
        race = Race(built, store, leases, way)
        for lease in leases:
            race.given += [await built.granted(lease, TOOL, ARGUMENTS) for _ in range(STEPS)]
        steps = [
            (lease, one.step_id)
            for lease, one in zip(sorted(leases * STEPS, key=leases.index), race.given, strict=True)
        ]
        built.clock.advance(timedelta(seconds=1))
        deeds = ["renew"] * len(steps) + ["commit"] * 8
        chance.shuffle(deeds)
        chance.shuffle(steps)
        every = tuple(steps)
        deeds.insert(chance.randrange(len(deeds) // 2, len(deeds)), "end")
        store.holding = True
        asking: list[asyncio.Task[None]] = []
        for deed in deeds:
            if deed == "renew":
                asking.append(asyncio.ensure_future(race.renew(*steps.pop())))
            else:
                await (race.commit() if deed == "commit" else race.end())
            await asyncio.sleep(0)
        store.holding = False
        for _ in range(len(deeds)):
            store.permits.release()
        await asyncio.wait_for(asyncio.gather(*asking, *([race.locking] if race.locking else [])), 10)
        assert race.after == []
        race.check()
        assert len(race.given) > TASKS * STEPS, "no renewal came before the end: this was no race"
        for lease, step_id in every:
            await race.renew(lease, step_id)
        assert race.after == []
