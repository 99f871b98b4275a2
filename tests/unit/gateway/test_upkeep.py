"""Keys are replaced in time, each announced before it signs; what a clock that was set back ends is in tests/faults/test_clock.py."""

from __future__ import annotations

from datetime import timedelta

from stepgrant_gateway.app.auditing import show
from stepgrant_gateway.upkeep import Upkeep
from tests.kit.heart import ORDERS, Heart, heart


def upkeep(built: Heart) -> Upkeep:
    return Upkeep(clock=built.clock, tasks=built.tasks, feed=built.feed, keys=built.keys, journal=built.journal)


async def test_tk_15_a_key_that_is_due_is_replaced_and_not_before() -> None:
    async with heart() as built:
        first, keeping = built.keys.active(), upkeep(built)
        keeping.look()
        assert built.keys.active() is first
        built.clock.advance(built.keys.due() - built.clock.now())
        keeping.look()
        second = built.keys.active()
        snapshot = (await anext(aiter(built.feed.subscribe(ORDERS, [ORDERS])))).item
    assert second.kid != first.kid
    assert [key.kid for key in snapshot.keys] == [first.kid, second.kid]
    assert [line["data"]["kid"] for line in show(built.store) if line["type"] == "key.activated"] == [second.kid]


async def test_a_clock_that_jumps_ahead_gets_its_key_at_the_next_look() -> None:
    async with heart() as built:
        keeping = upkeep(built)
        built.clock.set_wall(built.clock.now() + timedelta(days=1))
        keeping.look()
        assert built.keys.active().not_after > built.clock.now()
