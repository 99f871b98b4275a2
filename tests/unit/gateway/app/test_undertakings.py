"""What is begun is finished."""

import asyncio

import pytest

from stepgrant_gateway.app.undertakings import Undertakings


async def test_work_goes_on_when_whoever_asked_for_it_is_cancelled() -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    asking = asyncio.ensure_future(Undertakings().finish(work()))
    await asyncio.wait([asking], timeout=0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go.set()
    await asyncio.wait_for(done.wait(), 5)


async def test_result_and_error_reach_whoever_still_waits() -> None:
    async def work(result: int) -> int:
        if not result:
            raise ValueError("nothing")
        return result

    undertakings = Undertakings()
    assert await undertakings.finish(work(7)) == 7
    with pytest.raises(ValueError, match="nothing"):
        await undertakings.finish(work(0))
