"""An equal share for each identity that is at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from stepgrant_gateway.rpc.limits import AT_ONCE, AT_WORK
from stepgrant_gateway.rpc.turns import Turns
from tests.kit.clock import ManualClock

FLOOD, ME = "spiffe://acme.org/flood", "spiffe://acme.org/me"


@asynccontextmanager
async def turn_of(turns: Turns, identity: str) -> AsyncIterator[None]:
    """One turn, from its beginning to its end."""
    turn = turns.begin(identity)
    if turn is not None:
        await turn
    try:
        yield
    finally:
        turns.leave(identity)


class Requests:
    """Requests of one identity that stay at work until they are told to end."""

    def __init__(self, turns: Turns, identity: str) -> None:
        self._turns = turns
        self._identity = identity
        self.at_work: list[int] = []
        self._ends: dict[int, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, count: int) -> None:
        for _ in range(count):
            number = len(self.tasks)
            self._ends[number] = asyncio.Event()
            self.tasks.append(asyncio.create_task(self._one(number)))
        await settle()

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await settle()

    async def _one(self, number: int) -> None:
        async with turn_of(self._turns, self._identity):
            self.at_work.append(number)
            await self._ends[number].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_identity_alone_has_all_turns_and_the_rest_wait_in_order():
    flood = Requests(Turns(ManualClock()), FLOOD)
    await flood.come(AT_ONCE + 2)
    assert flood.at_work == list(range(AT_ONCE))
    await flood.end(7)
    await flood.end(3)
    assert flood.at_work[AT_ONCE:] == [AT_ONCE, AT_ONCE + 1]


async def test_who_floods_is_in_nobodys_way_and_has_its_share_only():
    """INV-11 and design 6, Load: one noisy agent costs the others nothing."""
    turns = Turns(ManualClock())
    flood, me = Requests(turns, FLOOD), Requests(turns, ME)
    await flood.come(10 * AT_ONCE)
    await me.come(1)
    assert me.at_work == [0]
    for number in range(AT_ONCE // 2):
        await flood.end(number)
    assert len(flood.at_work) == AT_ONCE, "more than its half went on working"
    await flood.end(AT_ONCE // 2)
    assert len(flood.at_work) == AT_ONCE + 1


async def test_everybody_has_one_turn_however_many_there_are():
    turns = Turns(ManualClock())
    async with AsyncExitStack() as stack:
        for number in range(3 * AT_ONCE):
            await stack.enter_async_context(turn_of(turns, f"{ME}/{number}"))


async def test_who_has_not_asked_for_a_while_does_not_count_any_more():
    clock = ManualClock()
    turns = Turns(clock)
    async with turn_of(turns, ME):
        pass
    clock.advance(AT_WORK + timedelta(milliseconds=1))
    flood = Requests(turns, FLOOD)
    await flood.come(AT_ONCE + 1)
    assert len(flood.at_work) == AT_ONCE


async def test_a_request_that_is_given_up_while_it_waits_leaves_its_turn_to_the_next():
    flood = Requests(Turns(ManualClock()), FLOOD)
    await flood.come(AT_ONCE + 2)
    flood.tasks[AT_ONCE].cancel()
    await settle()
    await flood.end(0)
    assert flood.at_work[-1] == AT_ONCE + 1


async def test_a_turn_that_comes_in_the_moment_of_giving_up_is_not_lost():
    turns = Turns(ManualClock())
    flood = Requests(turns, FLOOD)
    await flood.come(AT_ONCE + 2)
    flood._ends[0].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    flood.tasks[AT_ONCE].cancel()
    await settle()
    await flood.end(1)
    assert flood.at_work[-1] == AT_ONCE + 1


async def test_nothing_is_kept_of_identities_that_are_gone():
    clock = ManualClock()
    turns = Turns(clock)
    for number in range(100):
        async with turn_of(turns, f"{ME}/{number}"):
            pass
    clock.advance(AT_WORK * 2)
    async with turn_of(turns, ME):
        pass
    assert (len(turns._seen), turns._busy, turns._waiting) == (1, {}, {})
