"""The watcher: it subscribes, hands events on, and never leaves an untrusted view in place for longer than it must."""

import asyncio
import contextlib
import gc
import weakref
from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.errors import GatewayUnavailableError
from stepgrant.feed import Snapshot
from stepgrant.verify.feed import TrustedFeed
from stepgrant.verify.watch import FIRST_WAIT, LONGEST_WAIT, REFRESH, Watcher
from tests.kit.enforcement import AUDIENCE, GatewayDouble, UpstreamDouble


class Watching:
    """A watcher whose back-off the test lets pass."""

    def __init__(self) -> None:
        self.gateway = GatewayDouble()
        self.upstream = UpstreamDouble(self.gateway)
        self.feed = TrustedFeed(frozenset({AUDIENCE}))
        self.waits: list[timedelta] = []
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()
        self.watcher = Watcher(self.feed, self.upstream, self.gateway.clock, sleep=self._sleep)

    async def _sleep(self, span: timedelta) -> None:
        self.waits.append(span)
        self.waiting.set()
        await self.go_on.wait()
        self.go_on.clear()

    async def wait_for_back_off(self) -> None:
        await asyncio.wait_for(self.waiting.wait(), 5)
        self.waiting.clear()

    async def ready(self) -> None:
        await self.watcher.ready(timedelta(seconds=5))

    async def subscriptions(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.upstream.queues) < count:
                self.upstream.subscribed.clear()
                await self.upstream.subscribed.wait()


@contextlib.asynccontextmanager
async def running():
    watching = Watching()
    task = asyncio.create_task(watching.watcher.run())
    try:
        yield watching
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def test_once_the_snapshot_has_come_the_feed_is_trusted():
    async with running() as watching:
        assert not watching.feed.view.trusted
        await watching.ready()
        assert watching.feed.view.trusted


async def test_when_the_watcher_ends_nothing_is_trusted_any_more():
    async with running() as watching:
        await watching.ready()
    assert not watching.feed.view.trusted


async def test_events_are_handed_on():
    async with running() as watching:
        await watching.ready()
        announced = watching.gateway.key(watching.gateway.keys.prepare())
        watching.upstream.put(announced)
        await until(lambda: watching.feed.key(announced.kid, watching.gateway.clock.now()) is not None)


async def test_a_cut_ends_trust_until_another_snapshot_has_come_inv_11():
    """INV-11: feed lost; refuse meanwhile, resync."""
    async with running() as watching:
        await watching.ready()
        watching.upstream.cut()
        await watching.wait_for_back_off()
        assert not watching.feed.view.trusted
        watching.go_on.set()
        await watching.ready()
        assert watching.feed.view.trusted


async def test_rv_03_a_gap_leads_to_a_new_subscription_inv_11():
    """INV-11: a gap ends trust, and only a new snapshot brings it back."""
    async with running() as watching:
        await watching.ready()
        event = watching.gateway.event(watching.gateway.heartbeat())
        watching.upstream.queues[-1].put_nowait(replace(event, position=7, previous_position=6))
        await watching.wait_for_back_off()
        assert not watching.feed.view.trusted
        watching.go_on.set()
        await watching.ready()
        assert len(watching.upstream.queues) == 2


async def test_waits_grow_and_begin_anew_after_success():
    async with running() as watching:
        await watching.ready()
        watching.upstream.refusing = GatewayUnavailableError("away")
        watching.upstream.cut()
        for _ in range(8):
            await watching.wait_for_back_off()
            watching.go_on.set()
        assert watching.waits[:3] == [FIRST_WAIT, FIRST_WAIT * 2, FIRST_WAIT * 4]
        assert watching.waits[-1] == LONGEST_WAIT
        watching.upstream.refusing = None
        await watching.ready()
        watching.upstream.cut()
        await watching.wait_for_back_off()
        assert watching.waits[-1] == FIRST_WAIT


async def test_a_resync_overlaps_and_the_old_subscription_is_heard_no_more():
    async with running() as watching:
        await watching.ready()
        before = watching.feed.view
        watching.watcher.resync()
        await watching.subscriptions(2)
        await until(lambda: watching.feed.view is not before)
        assert watching.feed.view.trusted
        watching.upstream.queues[0].put_nowait(
            replace(watching.gateway.event(watching.gateway.heartbeat()), position=99)
        )
        watching.gateway.position -= 1
        announced = watching.gateway.key(watching.gateway.keys.prepare())
        watching.upstream.put(announced)
        await until(lambda: watching.feed.key(announced.kid, watching.gateway.clock.now()) is not None)
        assert watching.feed.view.trusted
        assert watching.waits == []


async def test_tr_06_a_subscription_is_replaced_before_its_connection_is_ended_for_its_age():
    """INV-11: without a moment in which nothing is trusted."""
    async with running() as watching:
        await watching.ready()
        async with asyncio.timeout(5):
            while len(watching.upstream.queues) < 2:
                watching.gateway.clock.advance(REFRESH)
                await asyncio.sleep(0)
        assert watching.feed.view.trusted

    assert watching.waits == []


async def test_a_watcher_that_ends_in_the_middle_of_a_resync_leaves_no_subscription_behind():
    before = asyncio.all_tasks()
    async with running() as watching:
        await watching.ready()
        watching.upstream.silent = True
        watching.watcher.resync()
        await watching.subscriptions(2)
    assert asyncio.all_tasks() == before


async def test_a_resync_that_fails_ends_trust_inv_11():
    """INV-11: with the identity or the bundle gone, what was trusted under it is not trusted on."""
    async with running() as watching:
        await watching.ready()
        watching.upstream.refusing = GatewayUnavailableError("the bundle is gone")
        watching.watcher.resync()
        await watching.wait_for_back_off()
        assert not watching.feed.view.trusted


async def test_a_failure_that_should_not_be_ends_trust_too(caplog):
    async with running() as watching:
        await watching.ready()
        watching.upstream.queues[-1].put_nowait("no event at all")
        await watching.wait_for_back_off()
        assert not watching.feed.view.trusted
    assert "should not" in caplog.text


async def test_ready_says_what_the_last_attempt_ended_with():
    async with running() as watching:
        watching.upstream.refusing = GatewayUnavailableError("connection refused")
        await watching.wait_for_back_off()
        with pytest.raises(GatewayUnavailableError, match="connection refused"):
            await watching.watcher.ready(timedelta(0))


async def test_ds_09_the_snapshot_that_a_subscription_began_with_is_not_kept_beside_the_view():
    """It names every dead grant that has not run out, and a subscription lives for an hour."""
    async with running() as watching:
        await watching.ready()
        former = weakref.ref(watching.feed.view)
        watching.watcher.resync()
        await until(lambda: former() is None)
        assert watching.feed.view.trusted
        assert [value for value in gc.get_objects() if isinstance(value, Snapshot)] == []
