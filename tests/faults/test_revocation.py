"""Group H of the fault matrix: what was ended is refused, at once, for as long as it could be presented, and by whoever restarts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from stepgrant.errors import Denial, DenialCode, GrantRefusedError, InvalidInputError, ProtocolError, RefusalCode
from stepgrant.feed import MAX_REVOKED, RevokedGrant
from stepgrant.grant import LEEWAY
from stepgrant.selector import Selector
from stepgrant.verify.verifier import verify_grant
from stepgrant_gateway.app.feed import KEPT
from stepgrant_gateway.core.boundary import StepEnded
from stepgrant_gateway.core.grants import LONGEST_GRANT
from tests.kit.enforcement import REFUND, SECOND, GatewayDouble, ResourceDouble, lock, some_ulid
from tests.kit.heart import AGENT, OPERATOR, ORDERS, heart

SAMPLES = 10_000
ORDER = {"order_id": "ord_00000042"}


def answer(resource: ResourceDouble, token: str) -> RefusalCode | None:
    """None if the grant is accepted for its call, else why not."""
    try:
        verify_grant(
            token, REFUND, resource.gateway.holder(token), expected=resource.expected, feed=resource.feed,
            replay=resource.replay, now=resource.clock.now(), monotonic=resource.clock.monotonic(),
        )  # fmt: skip
    except GrantRefusedError as refused:
        return refused.refusal.code
    return None


def looked_up(resource: ResourceDouble, claims: Any) -> RefusalCode | None:
    """What the view alone says of a grant: the last step of its verification."""
    instance, now = resource.gateway.announced.kid.split("-")[0], resource.clock.now()
    try:
        resource.feed.view.refuse_dead(claims, instance, now, resource.clock.monotonic())
    except GrantRefusedError as refused:
        return refused.refusal.code
    return None


def test_rv_01_of_ten_thousand_grants_none_is_accepted_once_its_end_was_heard() -> None:
    """That they were good before is part of it. How long it takes is the benchmark's."""
    resource = ResourceDouble()
    claims = resource.gateway.claims()
    for number in range(SAMPLES):
        one = replace(claims, grant_id=some_ulid(f"grant {number}"))
        assert looked_up(resource, one) is None
        resource.hear(RevokedGrant(one.grant_id, one.expires_at, "completed", resource.clock.now()))
        assert looked_up(resource, one) is RefusalCode.REVOKED
    dead = resource.gateway.mint(grant_id=some_ulid("grant 0"))
    assert answer(resource, dead) is RefusalCode.REVOKED
    assert answer(resource, resource.gateway.mint()) is None


def test_rv_02_without_the_feed_everything_is_refused_within_its_budget_or_the_grants_end() -> None:
    """The partition begins; a revocation that cannot come costs at most the budget of the feed, and nothing past `exp`."""
    resource = ResourceDouble()
    long, short = resource.gateway.mint(), resource.gateway.mint(expires_at=resource.clock.now() + 3 * SECOND)
    for second in range(1, 8):
        resource.clock.advance(SECOND)
        assert (answer(resource, long) is None) == (second <= 5)
        assert (answer(resource, short) is None) == (second < 3)
    assert answer(resource, resource.gateway.mint()) is RefusalCode.FEED_STALE


@pytest.mark.parametrize("fault", ["lost", "duplicated", "reordered"])
def test_rv_03_no_event_is_lost_by_what_happens_to_the_feed(fault: str) -> None:
    """Whatever is not the next event ends trust; the snapshot that brings it back has what was missed."""
    resource = ResourceDouble()
    token, dead = resource.gateway.mint(), resource.gateway.revoked()
    first, second = resource.gateway.event(dead), resource.gateway.event(resource.gateway.heartbeat())
    arriving = {"lost": [second], "duplicated": [first, first], "reordered": [second, first]}[fault]
    now, monotonic = resource.clock.now(), resource.clock.monotonic()
    with pytest.raises(ProtocolError, match="skipped or repeated"):
        for event in arriving:
            resource.feed.receive(event, resource.gateway.authority, now, monotonic)
    assert answer(resource, token) is RefusalCode.FEED_STALE or fault == "duplicated"
    assert answer(resource, resource.gateway.mint(grant_id=some_ulid("other"))) is RefusalCode.FEED_STALE
    resource.begin(revoked=(dead,))
    assert answer(resource, token) is RefusalCode.REVOKED


async def test_rv_03_whoever_comes_back_is_told_everything_that_still_counts() -> None:
    """There is no position to come back at: the gateway keeps no events, so nothing can have been compacted away."""
    async with heart() as built:
        lease = await built.open()
        first = built.feed.subscribe(ORDERS, [ORDERS])
        dead = await built.granted(lease, "orders.get", ORDER)
        first.close()
        lease.lost("stream_lost", "the stream ended.")
        locked = await built.operating.set_lock(Selector(tool="orders.search"), "incident", OPERATOR)
        for _ in range(100):
            built.feed.heartbeat()
        snapshot = (await anext(aiter(built.feed.subscribe(ORDERS, [ORDERS])))).item
    assert [item.grant_id for item in snapshot.revoked] == [dead.grant_id]
    assert [item.lock_id for item in snapshot.locks] == [locked.lock.lock_id]


def test_rv_05_a_replayed_snapshot_is_stale_and_one_with_an_older_checkpoint_is_refused() -> None:
    resource = ResourceDouble()
    token = resource.gateway.mint(expires_at=resource.clock.now() + timedelta(minutes=5))
    old = resource.gateway.snapshot(heartbeat=resource.gateway.heartbeat(1, resource.gateway.checkpoint(1)))
    resource.hear(resource.gateway.heartbeat(2, resource.gateway.checkpoint(2)))
    with pytest.raises(InvalidInputError, match="went back"):
        resource.begin(**{name: getattr(old, name) for name in ("keys", "catalog", "heartbeat")})
    unsigned = resource.gateway.snapshot()
    resource.clock.advance(timedelta(seconds=8))
    resource.begin(heartbeat=unsigned.heartbeat)
    assert answer(resource, token) is RefusalCode.FEED_STALE


def test_rv_05_nothing_of_a_snapshot_under_a_foreign_authority_is_believed() -> None:
    resource, forger = ResourceDouble(), GatewayDouble()
    token = resource.gateway.mint()
    forged = forger.event(forger.snapshot())
    resource.feed.begin(forged, resource.gateway.authority, resource.clock.now(), resource.clock.monotonic())
    assert answer(resource, forger.mint()) is RefusalCode.UNKNOWN_KEY
    assert answer(resource, token) is RefusalCode.UNKNOWN_KEY


@pytest.mark.parametrize("moment", [-SECOND, timedelta(0), LEEWAY])
async def test_rv_06_a_dead_grant_is_told_of_at_the_gateway_until_no_clock_could_take_it(moment: timedelta) -> None:
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        lease.lost("stream_lost", "the stream ended.")
        built.clock.advance(step.expires_at - built.clock.now() + moment)
        built.feed.heartbeat()
        snapshot = (await anext(aiter(built.feed.subscribe(ORDERS, [ORDERS])))).item
        assert [item.grant_id for item in snapshot.revoked] == [step.grant_id]
        built.clock.advance(LONGEST_GRANT + KEPT)
        built.feed.heartbeat()
        assert built.feed.revoked(step.grant_id) is None


@pytest.mark.parametrize("moment", [-SECOND, timedelta(0), LEEWAY])
def test_rv_06_and_at_a_resource_also_when_its_own_clock_is_behind(moment: timedelta) -> None:
    resource = ResourceDouble()
    claims = resource.gateway.claims()
    resource.hear(resource.gateway.revoked())
    resource.pass_time(claims.expires_at - resource.clock.now() + moment)
    resource.clock.set_wall(resource.clock.now() - LEEWAY)
    assert looked_up(resource, claims) is RefusalCode.REVOKED


def test_rv_07_a_lock_that_ends_a_million_grants_is_one_event_and_takes_no_room_for_each() -> None:
    """The selector is matched at the verifier: what it holds does not grow with what the lock ends."""
    resource = ResourceDouble()
    claims = resource.gateway.claims()
    before = resource.gateway.position
    resource.hear(lock(Selector(workload="spiffe://acme.org/agent")))
    assert resource.gateway.position == before + 1
    for number in range(SAMPLES):
        assert looked_up(resource, replace(claims, grant_id=some_ulid(f"grant {number}"))) is RefusalCode.LOCKED
    assert len(resource.feed.view._revoked) == 0
    assert len(resource.feed.view._locks) == 1


def test_rv_07_beyond_its_bound_of_dead_grants_a_resource_trusts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a bound and no entry is dropped for it: past the bound everything is refused."""
    assert MAX_REVOKED >= 100_000
    monkeypatch.setattr("stepgrant.verify.view.MAX_REVOKED", 3)
    resource = ResourceDouble()
    dead = [replace(resource.gateway.revoked(), grant_id=some_ulid(f"dead {number}")) for number in range(4)]
    for one in dead[:3]:
        resource.hear(one)
    with pytest.raises(ProtocolError, match="dead grants"):
        resource.hear(dead[3])
    assert answer(resource, resource.gateway.mint(grant_id=dead[3].grant_id)) is RefusalCode.FEED_STALE


async def test_rv_07_the_gateway_tells_of_a_lock_by_one_event_and_of_its_lifting_by_another() -> None:
    """Grants are not told of one by one; what their children are is not the lock's to match, so of them it is told."""
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        subscription = built.feed.subscribe(ORDERS, [ORDERS])
        for amount in range(1, 4):
            parent = await built.granted(lease, "orders.refund", {**ORDER, "amount": amount})
        child = await built.granted(lease, "orders.get", ORDER, parent=parent.step_id)
        locked = await built.operating.set_lock(Selector(tool="orders.refund"), "incident", OPERATOR)
        await built.operating.lift_lock(locked.lock.lock_id, "over", OPERATOR)
        built.feed.heartbeat()
        events = aiter(subscription)
        told = [(await anext(events)).item for _ in range(5)]
        snapshot = (await anext(aiter(built.feed.subscribe(ORDERS, [ORDERS])))).item
    assert locked.ended_steps == 4
    kinds = [type(item).__name__ for item in told]
    assert kinds == ["Snapshot", "Lock", "RevokedGrant", "LiftedLock", "Heartbeat"]
    assert told[2].grant_id == child.grant_id
    assert [item.lock_id for item in snapshot.lifted] == [locked.lock.lock_id]


async def test_rv_09_what_was_on_its_way_when_its_step_ended_is_on_record_as_late() -> None:
    """It is not recalled; the use, the end and the outcome that came after are on record, in that order."""
    from stepgrant_gateway.app.auditing import show
    from stepgrant_gateway.core.boundary import Outcome

    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        taken = await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, some_ulid("redemption"))
        await built.operating.set_lock(Selector(tool="orders.get"), "incident", OPERATOR)
        late = await built.redeeming.attest(ORDERS, ORDERS, step.grant_id, Outcome.COMPLETED, None)
        lines = [line for line in show(built.store) if line["data"].get("step") == step.step_id]
    assert (taken.accepted, late) == (True, True)
    assert [line["type"] for line in lines] == ["step.granted", "grant.redeemed", "step.ended", "step.attested"]
    assert (lines[2]["data"]["code"], lines[3]["data"]["late"]) == ("locked", True)


async def test_rv_11_a_banned_workload_is_out_at_once_although_its_svid_is_valid_for_an_hour() -> None:
    async with heart() as built:
        lease = await built.open(peer=built.peer(lives=timedelta(hours=1)))
        step = await built.granted(lease, "orders.get", ORDER)
        await built.operating.set_lock(Selector(workload=AGENT), "evicted", OPERATOR)
        ended = built.pushed[-1]
        assert isinstance(ended, StepEnded)
        assert (ended.step_id, ended.code) == (step.step_id, "locked")
        denial = await lease.declare(built.intent("orders.get", ORDER))
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.LOCKED
        redeemed = await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, some_ulid("redemption"))
        assert not redeemed.accepted
