"""An answer is handed on in the breath in which it is known."""

from __future__ import annotations

import asyncio

import pytest

from stepgrant_gateway.app.answers import Answer, answered


def test_whoever_asked_before_hears_it_at_once_and_who_asks_later_hears_it_as_well():
    heard: list[tuple[str, int]] = []
    answer: Answer[int] = Answer()
    answer.add_done_callback(lambda answer: heard.append(("early", answer.result())))
    assert not heard
    assert not answer.done()

    answer.set_result(7)
    assert heard == [("early", 7)]
    answer.add_done_callback(lambda answer: heard.append(("late", answer.result())))
    assert heard[1:] == [("late", 7)]


def test_why_there_is_none_is_raised_to_everybody():
    answer: Answer[int] = Answer()
    with pytest.raises(asyncio.InvalidStateError):
        answer.result()
    answer.set_exception(ValueError("no"))
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            answer.result()


async def test_it_can_be_awaited_before_and_after_and_one_who_gives_up_disturbs_nobody():
    answer: Answer[int] = Answer()

    async def wait() -> int:
        return await answer

    first, second = (asyncio.create_task(wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    answer.set_result(7)

    assert await asyncio.wait_for(second, 5) == 7
    assert await answer == 7
    assert first.cancelled()
    assert await answered(8) == 8
