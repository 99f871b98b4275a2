"""What a stream is going to send: in order, bounded, and with one end."""

from __future__ import annotations

import asyncio

import pytest

from stepgrant.v1 import agent_pb2
from stepgrant_gateway.rpc.limits import MAX_OUTBOX
from stepgrant_gateway.rpc.outbox import Outbox
from stepgrant_gateway.rpc.status import OverloadedError


def message(number: int) -> agent_pb2.GatewayMessage:
    return agent_pb2.GatewayMessage(reply_to=number)


async def test_messages_come_out_in_order_and_then_the_end():
    outbox = Outbox()
    outbox.put(message(1))
    outbox.finish(message(2))
    outbox.put(message(3))

    assert [(await outbox.next()).reply_to, (await outbox.next()).reply_to] == [1, 2]
    assert await outbox.next() is None


async def test_the_writer_waits_for_what_is_put_later():
    outbox = Outbox()
    waiting = asyncio.ensure_future(outbox.next())
    await asyncio.sleep(0)
    outbox.put(message(1))

    assert (await asyncio.wait_for(waiting, 5)).reply_to == 1


async def test_a_failure_comes_after_what_was_queued_before_it():
    outbox = Outbox()
    outbox.put(message(1))
    outbox.fail(ValueError("first"))
    outbox.fail(ValueError("second"))

    assert (await outbox.next()).reply_to == 1
    with pytest.raises(ValueError, match="first"):
        await outbox.next()


async def test_the_first_end_stays():
    outbox = Outbox()
    outbox.finish(message(1))
    outbox.fail(ValueError("late"))
    outbox.finish(message(2))

    assert (await outbox.next()).reply_to == 1
    assert await outbox.next() is None


async def test_an_agent_that_does_not_read_loses_its_stream():
    outbox = Outbox()
    for number in range(MAX_OUTBOX + 1):
        outbox.put(message(number))

    assert outbox.ended
    with pytest.raises(OverloadedError):
        await outbox.next()


async def test_a_failure_is_told_soon_also_when_nobody_takes_messages():
    told = asyncio.Event()
    outbox = Outbox(told.set)
    for number in range(MAX_OUTBOX + 1):
        outbox.put(message(number))

    assert not told.is_set()
    await asyncio.wait_for(told.wait(), 5)
