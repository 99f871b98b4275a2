"""Group G of the fault matrix: wall clocks that step, differ, stand still or sleep; nothing comes alive a second time."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepgrant.calls import Call
from stepgrant.errors import Denial, DenialCode, Denied, GrantRefusedError, ProtocolError, RefusalCode, Revoked
from stepgrant.grant import to_payload
from stepgrant.ids import ulid
from stepgrant.intent import parse_object
from stepgrant.selector import Selector
from stepgrant.verify.verifier import TlsHolder, verify_grant
from stepgrant_gateway.app.auditing import read_all, show
from stepgrant_gateway.app.feed import KEPT, SubscriptionLostError
from stepgrant_gateway.app.walltime import SET_BACK
from stepgrant_gateway.core.boundary import OpenTask, TaskClosed
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.grants import LONGEST_GRANT
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.storage.memory import MemoryLedger
from stepgrant_gateway.storage.sqlite import SqliteLedger, SqliteLedgerReader
from stepgrant_gateway.upkeep import Upkeep
from tests.kit.chains import chain_of, head_of, started
from tests.kit.clock import START, ManualClock
from tests.kit.clocked import SetClock, life, site
from tests.kit.enforcement import REFUND, SECOND, GatewayDouble, ResourceDouble
from tests.kit.heart import OPERATOR, ORDERS, Heart, heart
from tests.kit.loop import interrupted

DAY = timedelta(days=1)
ORDER = {"order_id": "ord_00000042"}
PARAMETERS = {**ORDER, "customer": "jo@example.org"}


def upkeep(built: Heart) -> Upkeep:
    return Upkeep(clock=built.clock, tasks=built.tasks, feed=built.feed, keys=built.keys, journal=built.journal)


def verified(resource: ResourceDouble, token: str) -> RefusalCode | None:
    """None if the grant is accepted for its call, else why not."""
    try:
        verify_grant(
            token, REFUND, resource.gateway.holder(token), expected=resource.expected, feed=resource.feed,
            replay=resource.replay, now=resource.clock.now(), monotonic=resource.clock.monotonic(),
        )  # fmt: skip
    except GrantRefusedError as refused:
        return refused.refusal.code
    return None


def of_another_clock(gateway: GatewayDouble, ahead: timedelta) -> ResourceDouble:
    """A resource whose wall clock differs from the gateway's by `ahead`."""
    resource = ResourceDouble(gateway)
    resource.clock = ManualClock(gateway.clock.now() + ahead)
    resource.begin()
    return resource


@pytest.mark.parametrize("back", [timedelta(seconds=5, milliseconds=1), timedelta(hours=1), DAY, None])
async def test_ck_01_a_clock_that_is_set_back_ends_every_task_and_every_key_and_grants_nothing_more(back) -> None:
    async with heart() as built:
        lease = await built.open()
        dead = await built.granted(lease, "orders.search", {"query": "a"})
        live = await built.granted(lease, "orders.get", ORDER)
        await lease.renew(dead.step_id)
        old, subscription = built.keys.active().kid, built.feed.subscribe(ORDERS, [ORDERS])
        keeping = upkeep(built)
        built.clock.set_wall(built.clock.now() - back if back else datetime(1970, 1, 2, tzinfo=UTC))

        with pytest.raises(SubscriptionLostError):
            built.feed.subscribe(ORDERS, [ORDERS])
        keeping.look()

        assert isinstance(built.pushed[-1], TaskClosed)
        assert (built.pushed[-1].code, subscription.over) == ("clock_set_back", True)
        assert built.feed.revoked(live.grant_id) is not None
        snapshot = (await anext(aiter(built.feed.subscribe(ORDERS, [ORDERS])))).item
        assert [key.kid for key in snapshot.keys] == [built.keys.active().kid] != [old]
        opening = OpenTask("Refund", parse_object(json.dumps(PARAMETERS)), "a test", b"k" * 32)
        denial = await built.tasks.open(built.peer(), opening, built.pushed.append)
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.UNRECORDED


async def test_ck_01_what_verifiers_put_up_with_ends_nothing() -> None:
    async with heart() as built:
        lease = await built.open()
        await built.granted(lease, "orders.get", ORDER)
        key, keeping = built.keys.active().kid, upkeep(built)
        built.clock.set_wall(built.clock.now() - SET_BACK)
        keeping.look()
        assert built.keys.active().kid == key
        assert not built.pushed
        built.clock.set_wall(built.clock.now() + SET_BACK)
        await built.granted(lease, "orders.get", ORDER)


async def test_ck_01_a_clock_that_is_ahead_for_a_moment_has_no_revocation_forgotten() -> None:
    """A day ahead and back within a minute: whoever subscribes then still hears that the grant is dead."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        lease.lost("stream_lost", "the stream ended.")
        built.clock.set_wall(built.clock.now() + DAY)
        built.feed.heartbeat()
        built.clock.set_wall(built.clock.now() - DAY)
        assert built.feed.revoked(step.grant_id) is not None
        built.clock.advance(LONGEST_GRANT + KEPT + SECOND)
        built.feed.heartbeat()
        assert built.feed.revoked(step.grant_id) is None


async def test_ck_01_a_grant_of_a_clock_that_was_ahead_does_not_come_alive_when_its_time_comes() -> None:
    """Minted a day ahead, used up and forgotten by all; a day later `iat` and `exp` hold, and the key is gone."""
    gateway = GatewayDouble()
    gateway.clock.set_wall(gateway.clock.now() + DAY)
    gateway.keys.rotate(lambda _: None)
    gateway.announced = gateway.key(gateway.keys.announcements()[-1])
    token = gateway.mint()
    gateway.clock.set_wall(gateway.clock.now() - DAY)
    gateway.keys.forget()
    gateway.announced = gateway.key(gateway.keys.rotate(lambda _: None))
    resource = ResourceDouble(gateway)
    assert verified(resource, token) is RefusalCode.UNKNOWN_KEY
    gateway.clock.set_wall(gateway.clock.now() + DAY + SECOND)
    gateway.announced = gateway.key(gateway.keys.rotate(lambda _: None))
    resource.begin()
    assert verified(resource, gateway.mint()) is None
    assert verified(resource, token) is RefusalCode.UNKNOWN_KEY


async def test_ck_01_after_a_clock_that_was_ahead_the_operator_lets_the_gateway_mint_again_once_and_on_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From end to end: real clocks, but for the gateway's wall clock."""
    clock = SetClock()
    clock.ahead = DAY
    async with site() as place:
        async with life(place, clock) as ahead:
            resource = await ahead.verifier()
            with pytest.raises(Revoked, match="clock_set_back"):
                async with ahead.client().task("Refund", PARAMETERS) as task, task.step("orders.get", ORDER) as step:
                    holder = TlsHolder(step.holder.identity.spiffe_id, step.holder.identity.leaf_sha256)
                    with pytest.raises(GrantRefusedError) as refused:
                        await resource.verify(
                            step.grant.token, Call("orders.get", parse_object(json.dumps(ORDER))), holder
                        )
                    assert refused.value.refusal.code is RefusalCode.NOT_YET_VALID
                    clock.ahead = timedelta(0)
                    await interrupted()
            with pytest.raises(Denied, match="behind its own ledger"):
                async with ahead.client().task("Refund", PARAMETERS):
                    pytest.fail("the task opened")
        with caplog.at_level(logging.ERROR):
            async with life(place, clock) as behind:
                with pytest.raises(Denied, match="behind its own ledger"):
                    async with behind.client().task("Refund", PARAMETERS):
                        pytest.fail("the task opened")
        said = caplog.text.rpartition("--clock-was-ahead ")[2].split()[0]
        latest = datetime.fromisoformat(said)
        with pytest.raises(ConfigError, match=said):
            async with life(place, clock, ahead_until=latest - SECOND):
                pytest.fail("it started")
        async with life(place, clock, ahead_until=latest) as forgiven:
            async with forgiven.client().task("Refund", PARAMETERS) as task, task.step("orders.get", ORDER):
                pass
        async with life(place, clock) as next_one:
            async with next_one.client().task("Refund", PARAMETERS):
                pass
        reader = SqliteLedgerReader(place[0] / "ledger.db")
        events = [(line["type"], line["data"]) for line in show(reader)]
        reader.close()
    assert [data for kind, data in events if kind == "clock.forgiven"] == [{"ahead_until": said}]
    assert [kind for kind, _ in events].count("clock.set_back") == 1


ANY_TIME = [timedelta(seconds=ahead) for ahead in (-600, -10, -3, -2, -1, 0, 1, 2, 3, 10, 600)]
FRESH = {
    timedelta(seconds=-600): RefusalCode.NOT_YET_VALID,
    timedelta(seconds=-10): RefusalCode.NOT_YET_VALID,
    timedelta(seconds=-3): RefusalCode.NOT_YET_VALID,
    timedelta(seconds=10): RefusalCode.FEED_STALE,
    timedelta(seconds=600): RefusalCode.EXPIRED,
}


@pytest.mark.parametrize("ahead", ANY_TIME)
def test_ck_03_a_verifier_whose_clock_differs_accepts_within_the_leeway_and_never_past_the_end(ahead) -> None:
    """LEEWAY (2 s) is for `nbf` and `iat`; a clock that is ahead costs what it is ahead, and past the budget of the feed all."""
    resource = of_another_clock(GatewayDouble(), ahead)
    token = resource.gateway.mint()
    assert verified(resource, token) is FRESH.get(ahead)
    for _ in range(20):
        resource.gateway.clock.advance(SECOND)
        resource.clock.advance(SECOND)
        resource.hear(resource.gateway.heartbeat())
    assert verified(resource, token) is RefusalCode.EXPIRED


async def test_ck_04_on_waking_what_has_expired_is_refused_before_its_deadline_runs() -> None:
    """A machine that slept: the wall clock has moved on, the monotonic one and its timers have not."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.search", {"query": "a"})
        once = await built.granted(lease, "orders.get", ORDER)
        built.clock.set_wall(built.clock.now() + timedelta(seconds=60))

        redeemed = await built.redeeming.redeem(ORDERS, ORDERS, once.grant_id, once.step_id)
        renewed = await lease.renew(step.step_id)

        assert (redeemed.accepted, redeemed.code) == (False, "expired")
        assert isinstance(renewed, Denial)
        assert renewed.code is DenialCode.STEP_ENDED
        assert built.feed.revoked(step.grant_id).code == "expired"


@pytest.mark.parametrize("asleep", [timedelta(seconds=7), timedelta(seconds=60)])
def test_ck_04_a_resource_that_slept_accepts_nothing_until_it_has_heard_anew(asleep) -> None:
    """The heartbeats that were sent meanwhile lie in its socket; they are late, and do not make it fresh."""
    resource = ResourceDouble()
    token = resource.gateway.mint(expires_at=resource.clock.now() + timedelta(minutes=5))
    beats = []
    for _ in range(int(asleep.total_seconds())):
        resource.clock.advance(SECOND)
        beats.append(resource.gateway.event(resource.gateway.heartbeat()))
    assert verified(resource, token) is RefusalCode.FEED_STALE
    with pytest.raises(ProtocolError, match="late"):
        for beat in beats:
            resource.feed.receive(beat, resource.gateway.authority, resource.clock.now(), resource.clock.monotonic())
    assert verified(resource, token) is RefusalCode.FEED_STALE
    resource.begin()
    assert verified(resource, token) is None


FORMS: list[Any] = ["1795262420", 1795262420.0, 1e400, True, None, [], {}, 0, -1, 1795262420000, 253402300800, 2**63]


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", FORMS, ids=repr)
def test_ck_05_times_are_whole_seconds_in_range_and_nothing_else(claim, value) -> None:
    """Milliseconds are beyond the year 9999; `1e400` reads as infinity; `NaN` is tried with `exp` in the verifier's tests."""
    resource = ResourceDouble()
    payload = {**to_payload(resource.gateway.claims()), claim: value}
    token = resource.gateway.sign(
        {"kid": resource.gateway.announced.kid, "typ": "stepgrant+jwt"}, json.dumps(payload).encode()
    )
    assert verified(resource, token) is RefusalCode.CLAIMS


@pytest.mark.parametrize("end", [datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
def test_ck_05_an_end_in_2038_or_9999_is_read_and_the_end_of_its_key_is_the_end_of_it(end) -> None:
    resource = ResourceDouble()
    token = resource.gateway.sign(
        {"kid": resource.gateway.announced.kid, "typ": "stepgrant+jwt"},
        json.dumps(to_payload(resource.gateway.claims(expires_at=end))).encode(),
    )
    assert verified(resource, token) is None
    resource.clock.set_wall(resource.gateway.announced.not_after)
    assert verified(resource, token) is RefusalCode.UNKNOWN_KEY


async def test_ck_06_what_happens_within_one_tick_is_ordered_by_its_sequence() -> None:
    """The clock stands still; lock, unlock and lock again are told and folded in the order in which they were done."""
    store = MemoryLedger()
    async with heart(store) as built:
        subscription = built.feed.subscribe(ORDERS, [ORDERS])
        first = await built.operating.set_lock(Selector(tool="orders.get"), "one", OPERATOR)
        await built.operating.lift_lock(first.lock.lock_id, "two", OPERATOR)
        second = await built.operating.set_lock(Selector(tool="orders.get"), "three", OPERATOR)
        events = aiter(subscription)
        told = [(await anext(events)).item for _ in range(4)]
        history = fold(stored.event for stored in read_all(store))
    assert [item.lock_id for item in told[1:]] == [first.lock.lock_id, first.lock.lock_id, second.lock.lock_id]
    assert len({event["at"] for event in show(store) if event["type"].startswith("lock.")}) == 1
    assert list(history.locks) == [second.lock.lock_id]


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_ck_06_chains_are_in_the_order_of_their_beginning_whatever_their_clocks_said(engine, tmp_path) -> None:
    """A lock of a life whose clock was a day ahead is lifted in the next, whose times and name are earlier: it is lifted."""
    ahead, right = ulid(START + DAY, b"instance-1"), ulid(START, b"instance-2")
    selector = {"workload": None, "task_type": None, "tool": "orders.get", "target": None}
    lock = {"lock": ulid(START, b"lock-00001"), "selector": selector}
    setting = Event(EventType.LOCK_SET, START + DAY, {**lock, "reason": "one", "by": OPERATOR})
    lifting = Event(EventType.LOCK_LIFTED, START, {**lock, "reason": "two", "by": OPERATOR})
    first = chain_of(started(at=START + DAY), setting, instance=ahead)
    store = MemoryLedger() if engine == "memory" else SqliteLedger(tmp_path / "ledger.db")
    store.append(first, [])
    store.append(chain_of(started([head_of(first)]), lifting, instance=right), [])
    if isinstance(store, SqliteLedger):
        store.close()
        reader = SqliteLedgerReader(tmp_path / "ledger.db")
        assert fold(stored.event for stored in read_all(reader)).locks == {}
        reader.close()
    else:
        assert fold(stored.event for stored in read_all(store)).locks == {}
