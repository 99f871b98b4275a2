"""A receipt is kept, broken, or, for an end, late."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from stepgrant_gateway.app.receipts import PendingReceipt
from stepgrant_gateway.core.errors import UnrecordedError


def receipt(*, is_end: bool = False) -> PendingReceipt:
    return PendingReceipt(timedelta(seconds=2), is_end=is_end)


async def test_everyone_who_waits_hears_the_sequence_when_it_is_kept():
    promise = receipt()
    waiting = [asyncio.ensure_future(promise.durable()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not promise.done()
    promise.keep(7)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [7, 7, 7]
    assert promise.done()
    assert await promise.durable() == 7


async def test_one_who_gives_up_waiting_does_not_disturb_the_others():
    promise = receipt()
    first, second = (asyncio.ensure_future(promise.durable()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    promise.keep(7)
    assert await asyncio.wait_for(second, 5) == 7
    assert first.cancelled()


async def test_inv_03_a_broken_promise_of_a_grant_stays_broken_whatever_becomes_durable_later():
    promise = receipt()
    promise.break_("too late")
    promise.keep(7)
    assert not promise.done()
    with pytest.raises(UnrecordedError, match="too late"):
        await promise.durable()


async def test_the_promise_of_an_end_can_be_kept_late():
    promise = receipt(is_end=True)
    promise.break_("in force, not yet recorded")
    with pytest.raises(UnrecordedError):
        await promise.durable()
    promise.keep(7)
    assert promise.done()
    assert await promise.durable() == 7


async def test_what_is_durable_cannot_be_broken_any_more():
    promise = receipt()
    promise.keep(7)
    promise.break_("too late")
    assert await promise.durable() == 7


def test_whoever_has_no_task_hears_of_it_in_the_same_breath():
    heard: list[object] = []
    kept, broken = receipt(), receipt()
    kept.then(heard.append)
    broken.then(heard.append)
    assert not heard

    kept.keep(7)
    broken.break_("too late")
    assert heard[0] is None
    assert str(heard[1]) == "too late"
    kept.then(heard.append)
    assert heard[2:] == [None]


def test_an_end_that_somebody_wants_to_hear_of_is_hurried():
    hurried: list[bool] = []
    promise = PendingReceipt(timedelta(seconds=2), is_end=True, awaited=lambda: hurried.append(True))
    promise.then(lambda _: None)
    assert hurried
