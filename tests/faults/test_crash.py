"""A gateway killed with SIGKILL at seeded points, under load, again and again on the same ledger: nothing is lost.

STEPGRANT_CRASH_POINTS says how many points (28 if unset; `make crash` takes 500), STEPGRANT_CRASH_SEED which; twelve more
are those of SM-04.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc
import pytest

from stepgrant.errors import Denied, GatewayUnavailableError, GrantRefusedError, TaskClosedError
from stepgrant.v1 import operator_pb2, operator_pb2_grpc
from stepgrant.verify import Verifier
from tests.faults import dying
from tests.faults.dying import Place
from tests.faults.ledger_checks import GrowingLedger, check_former_lives, check_told, read_ledger
from tests.faults.load import AGENTS, ORDERS, UNPROVEN, Load, Told
from tests.faults.serving import PATIENCE, STEPGRANT, Life, Site, site
from tests.kit.running import ISSUER

POINTS: Final = int(os.environ.get("STEPGRANT_CRASH_POINTS", "28"))
SEED: Final = int(os.environ.get("STEPGRANT_CRASH_SEED", "20261122"))
WINDOWS: Final = 12
COMMITS: Final = 40
"""The last commit of a life at which it may die. The first four are those of its start."""
MESSAGES: Final = 80
STEPS: Final = 12
"""The last grant, or end, of a life at which it may die."""
SNAPSHOT_EVERY: Final = 20
"""Events between two snapshots: so few that each life leaves some."""
SNAPSHOTS: Final = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Point:
    """Where a gateway dies: at that commit of its life, or when its clients have heard so many answers."""

    place: Place
    number: int

    @property
    def command(self) -> tuple[str, ...]:
        """What to run instead of `stepgrant`."""
        if self.place is Place.MESSAGE:
            return STEPGRANT
        return (sys.executable, str(Path(dying.__file__)), self.place.value, str(self.number))


LAST: Final = {
    Place.MESSAGE: MESSAGES,
    Place.GRANTED: STEPS,
    Place.ENDING: STEPS,
    Place.ENDED: STEPS,
    Place.RENAMING: SNAPSHOTS,
    Place.KEPT: SNAPSHOTS,
}


def points(count: int, seed: int, places: Sequence[Place] = tuple(Place)) -> list[Point]:
    """Each place in turn; a quarter of the commits are those of the start itself."""
    numbers = random.Random(seed)
    found = []
    for index in range(count):
        place = places[index % len(places)]
        last = LAST.get(place, 4 if numbers.random() < 0.25 else COMMITS)
        found.append(Point(place, numbers.randint(1, last)))
    return found


class Crashing:
    """Lives and deaths of the gateway of one site."""

    def __init__(self, at: Site, load: Load, served: asyncio.Event) -> None:
        self._site = at
        self._load = load
        self._told = load.told
        self._served = served
        self.ledger = GrowingLedger(at.ledger)

    async def live(self, point: Point | None) -> None:
        """One life: what has to hold of those before, then load until it dies at `point`, and what its ledger holds then.

        Without a point it must get through all that has to hold, and is then ended.
        """
        self._served.clear()
        life = await self._site.begin(command=STEPGRANT if point is None else point.command)
        if life.ready:
            self._served.set()
            self._told.hear = lambda: None
            hanging = asyncio.create_task(self._kill_when_hung(life))
            await _unless(life, self._outlived(life), armed=point is not None)
            self._told.hear = self._counting(life, point)
            if point is not None:
                await self._load.run()
                await hanging
            hanging.cancel()
        if point is None:
            await life.stop()
        status = await life.ended()
        assert life.ready or point is not None, "\n".join(life.said()[-20:])
        assert status == -signal.SIGKILL, "\n".join(life.said()[-20:])
        check_told(self.ledger.read(), self._told)
        self.ledger.check_snapshots()

    async def _kill_when_hung(self, life: Life) -> None:
        """Asks it something once its disk hangs, so that whatever it let out before has arrived; then kills it."""
        if await life.hung():
            async with self._site.channel("operator/jo") as channel:
                stub = operator_pb2_grpc.OperatorStub(channel)
                await stub.ListLocks(operator_pb2.ListLocksRequest(), timeout=PATIENCE)
            life.process.kill()

    async def _outlived(self, life: Life) -> None:
        await self._synced(life)
        await self._refuses_former_grants()
        events = self.ledger.read()
        check_told(events, self._told)
        check_former_lives(events, life.instance_id)
        await self._enforces_locks()

    def _counting(self, life: Life, point: Point | None) -> Callable[[], None]:
        heard = 0

        def hear() -> None:
            nonlocal heard
            heard += 1
            if point is not None and point.place is Place.MESSAGE and heard == point.number:
                life.process.kill()

        return hear

    async def _synced(self, life: Life) -> None:
        """Returns when the resource's verifier trusts this very instance, or that has died."""
        watcher, feed = self._load.verifier.watcher, self._load.verifier._feed

        async def trusted() -> None:
            async with watcher._begun:
                await watcher._begun.wait_for(lambda: feed.view.trusted and life.instance_id in feed.view._heard)

        waiting = asyncio.create_task(trusted()), asyncio.create_task(life.process.wait())
        try:
            done, _ = await asyncio.wait(waiting, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            assert done, "the verifier did not come back to the gateway"
        finally:
            for task in waiting:
                task.cancel()

    async def _refuses_former_grants(self) -> None:
        for shown in self._told.tokens:
            with pytest.raises(GrantRefusedError) as refused:
                await self._load.verifier.verify(shown.token, shown.call, shown.holder)
            assert refused.value.refusal.code in UNPROVEN
        self._told.tokens.clear()

    async def _enforces_locks(self) -> None:
        async with self._site.channel("operator/jo") as channel:
            stub = operator_pb2_grpc.OperatorStub(channel)
            listed = (await stub.ListLocks(operator_pb2.ListLocksRequest(), timeout=PATIENCE)).locks
        in_force = {lock.lock_id: lock.selector.target for lock in listed}
        for lock_id in self._told.doubtful - in_force.keys():
            self._told.lifted.add(lock_id)
            self._told.locked.pop(lock_id, None)
        self._told.doubtful.clear()
        assert self._told.locked.items() <= in_force.items(), "a lock that was durable is not in force"
        assert not self._told.lifted & in_force.keys(), "a lock that was lifted is in force"
        # Those that were set without their operator hearing of it are in force as well, and stay so.
        self._told.locked.update(in_force)
        for target in sorted(set(in_force.values()))[:1]:
            order = target.rpartition("/")[2]
            client = self._load.clients[0]
            with pytest.raises(Denied) as denied:
                async with client.task("Refund", {"order_id": order, "customer": "jo@example.org"}) as task:
                    async with task.step("orders.get", {"order_id": order}):
                        pytest.fail("the lock was not in force")
            assert denied.value.denial.code.value == "locked"


async def _unless(life: Life, checks: Coroutine[None, None, None], *, armed: bool) -> None:
    """The checks, which an armed gateway may break off by dying."""
    try:
        await checks
    except (GatewayUnavailableError, TaskClosedError, grpc.aio.AioRpcError):
        if not armed:
            raise
        await life.ended()


async def die_at(chosen: Sequence[Point]) -> None:
    """One ledger through all of these deaths."""
    told, served = Told(), asyncio.Event()

    async def until_served(_: timedelta) -> None:
        await served.wait()

    async with site() as at:
        at.snapshot_every = SNAPSHOT_EVERY
        clients = [await at.client() for _ in range(AGENTS)]
        identity = await at.identity("resource/orders")
        connecting = Verifier.connect(
            gateway=f"localhost:{at.port}", gateway_id=ISSUER, audience=ORDERS, identity=identity
        )
        async with connecting as verifier:
            # It tries again when there is a gateway, instead of when some time has passed.
            verifier.watcher._sleep = until_served
            load = Load(at, told, clients, verifier, random.Random(SEED))
            crashing = Crashing(at, load, served)
            for point in chosen:
                _log.warning("The next one dies at %s.", point)
                await crashing.live(point)
            await crashing.live(None)
        read_ledger(at.ledger)
    assert told.accepted, "no grant was ever accepted: nothing was tried"
    assert told.redeemed
    assert told.lifted
    assert crashing.ledger.spared, "no start began with a snapshot"


@pytest.mark.slow
async def test_st_01_whatever_a_client_was_told_outlives_the_gateway_that_said_it():
    """INV-03, INV-04, INV-05, INV-14: at each point the ledger verifies and holds all that was acknowledged."""
    await die_at(points(POINTS, SEED))


@pytest.mark.slow
async def test_sm_04_a_grant_on_record_that_was_not_sent_is_dead_and_an_end_that_was_published_stays_one():
    """The two windows: between a grant's record and its sending, and between an end's publication and its record."""
    await die_at(points(WINDOWS, SEED, (Place.GRANTED, Place.ENDING, Place.ENDED)))
