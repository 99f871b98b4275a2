"""Following a chain."""

import asyncio

from stepgrant_gateway.app.tailing import Tail
from stepgrant_gateway.core.ledger import GENESIS, ChainHead
from stepgrant_gateway.storage.memory import MemoryLedger
from tests.kit.chains import INSTANCE, chain_of, ended


def sequences(records):
    return [record.sequence for record in records]


async def test_a_tail_gives_what_is_there_and_follows_what_comes():
    store, records = MemoryLedger(), chain_of(*(ended(number) for number in range(4)))
    store.append(records[:3], [])
    tail = Tail(store, ChainHead(INSTANCE, 3, records[2].hash))
    assert sequences([record async for record in tail.records(1, follow=False)]) == [2, 3]
    following = tail.records(2, follow=True)
    assert (await asyncio.wait_for(anext(following), 5)).sequence == 3
    coming = asyncio.ensure_future(anext(following))
    store.append(records[3:], [])
    tail.move(ChainHead(INSTANCE, 4, records[3].hash))
    assert (await asyncio.wait_for(coming, 5)).sequence == 4


async def test_a_tail_that_follows_ends_with_the_chain():
    tail = Tail(MemoryLedger(), ChainHead(INSTANCE, 0, GENESIS))
    coming = asyncio.ensure_future(anext(tail.records(0, follow=True), None))
    await asyncio.sleep(0)
    tail.end()
    assert await asyncio.wait_for(coming, 5) is None
    assert await anext(tail.records(0, follow=True), None) is None
