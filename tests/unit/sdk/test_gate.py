"""Requests pass while the gate is open; who shuts it can wait until every one that passed has its answer."""

from __future__ import annotations

import asyncio

import pytest

from stepgrant.gate import MAX_IN_FLIGHT, Gate


@pytest.fixture
def passed():
    return []


async def through(gate, passed, answer):
    async with gate.passage():
        passed.append(answer)
        await answer.wait()


async def rounds():
    for _ in range(4):
        await asyncio.sleep(0)


async def test_who_has_not_passed_when_it_shuts_waits_also_if_only_room_was_missing(passed):
    gate, answers = Gate(), [asyncio.Event() for _ in range(MAX_IN_FLIGHT + 2)]
    asking = [asyncio.create_task(through(gate, passed, answer)) for answer in answers]
    await rounds()
    assert passed == answers[:MAX_IN_FLIGHT]
    gate.shut()
    answers[0].set()
    await rounds()
    assert len(passed) == MAX_IN_FLIGHT
    gate.open()
    await rounds()
    assert passed == answers[:-1]
    for answer in answers:
        answer.set()
    await asyncio.gather(*asking)


async def test_it_is_empty_when_the_last_answer_is_there(passed):
    gate, first, second = Gate(), asyncio.Event(), asyncio.Event()
    asking = [asyncio.create_task(through(gate, passed, answer)) for answer in (first, second)]
    await rounds()
    gate.shut()
    empty = asyncio.create_task(gate.empty())
    first.set()
    await rounds()
    assert not empty.done()
    second.set()
    await asyncio.gather(empty, *asking)
    assert not gate.is_open
