"""The feed."""

import asyncio

import pytest

from stepgrant.selector import Selector
from stepgrant_gateway.app.feed import MAX_BACKLOG, SubscriptionLostError
from stepgrant_gateway.core.boundary import Outcome, ReportStep
from stepgrant_gateway.core.errors import NotAllowedError
from stepgrant_gateway.core.revocation import AnnouncedKey, Heartbeat, LiftedLock, Lock, RevokedGrant, Snapshot
from tests.kit.heart import MAIL, MAIL_AUDIENCE, OPERATOR, ORDERS, heart

ORDER = {"order_id": "ord_00000042"}


async def take(subscription, count: int) -> list:
    events = aiter(subscription)
    return [await asyncio.wait_for(anext(events), 5) for _ in range(count)]


async def test_a_subscription_begins_with_a_snapshot_and_goes_on_without_a_gap() -> None:
    async with heart() as built:
        lease = await built.open()
        dead = await built.granted(lease, "orders.search", {"query": "a"})
        renewed = await lease.renew(dead.step_id)
        subscription = built.feed.subscribe(ORDERS, [ORDERS])
        built.keys.rotate(built.feed.publish)
        await built.granted(lease, "orders.get", ORDER)
        lock = await built.operating.set_lock(Selector(tool="orders.get"), "incident", OPERATOR)
        await built.operating.lift_lock(lock.lock.lock_id, "done", OPERATOR)
        built.feed.heartbeat()
        lease.report(ReportStep(dead.step_id, Outcome.COMPLETED, None, ""))
        events = await take(subscription, 6)
        assert [event.position for event in events] == [1, 2, 3, 4, 5, 6]
        assert [event.previous_position for event in events] == [0, 1, 2, 3, 4, 5]
        assert {event.epoch for event in events} == {events[0].epoch}
        snapshot, key, locked, lifted, beat, revoked = (event.item for event in events)
        assert isinstance(snapshot, Snapshot)
        assert [item.grant_id for item in snapshot.revoked] == [dead.grant_id]
        assert isinstance(key, AnnouncedKey)
        assert isinstance(locked, Lock)
        assert isinstance(revoked, RevokedGrant)
        assert (revoked.grant_id, revoked.code) == (renewed.grant_id, "completed")
        assert isinstance(lifted, LiftedLock)
        assert lifted.refuse_issued_until == locked.issued_at
        assert isinstance(beat, Heartbeat)
        assert beat.included_sequence == built.journal.position


async def test_ds_06_what_has_run_out_is_not_told_and_what_ends_before_is() -> None:
    async with heart() as built:
        lease = await built.open()
        for _ in range(3):
            step = await built.granted(lease, "orders.get", ORDER)
        early = await built.granted(lease, "orders.get", ORDER)
        subscription = built.feed.subscribe(ORDERS, [ORDERS])
        lease.report(ReportStep(early.step_id, Outcome.COMPLETED, None, ""))
        built.clock.advance(step.expires_at - built.clock.now())
        assert not built.state.tasks[lease.opened.task_id].live
        built.feed.heartbeat()
        _, told, beat = (event.item for event in await take(subscription, 3))
        assert (told.grant_id, type(beat)) == (early.grant_id, Heartbeat)


async def test_ck_01_what_has_run_out_only_by_a_clock_that_is_ahead_is_told() -> None:
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        subscription = built.feed.subscribe(ORDERS, [ORDERS])
        built.clock.set_wall(step.expires_at)
        lease.lost("stream_lost", "the stream ended.")
        _, told = (event.item for event in await take(subscription, 2))
        assert told.grant_id == step.grant_id


async def test_a_resource_sees_only_audiences_that_the_catalog_gives_to_it() -> None:
    async with heart() as built:
        with pytest.raises(NotAllowedError, match="verifiers"):
            built.feed.subscribe(ORDERS, [ORDERS, MAIL_AUDIENCE])
        with pytest.raises(NotAllowedError, match="verifiers"):
            built.feed.subscribe(ORDERS, ["spiffe://dev.stepgrant.test/resource/other"])
        mail = built.feed.subscribe(MAIL, [MAIL_AUDIENCE])
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        lease.lost("stream_lost", "the stream ended.")
        built.feed.heartbeat()
        snapshot, beat = await take(mail, 2)
        assert [piece.audience for piece in snapshot.item.catalog] == [MAIL_AUDIENCE]
        assert isinstance(beat.item, Heartbeat)
        assert built.feed.revoked(step.grant_id) is not None


async def test_tr_06_a_slow_reader_is_cut_off_and_never_skipped() -> None:
    """INV-11."""
    async with heart() as built:
        slow = built.feed.subscribe(ORDERS, [ORDERS])
        for _ in range(MAX_BACKLOG):
            built.feed.heartbeat()
        with pytest.raises(SubscriptionLostError, match="slow"):
            await take(slow, 1)
