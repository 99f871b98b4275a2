"""The revocation view: trusted from a snapshot on, and only as long as no event is missing."""

from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.errors import GrantRefusedError, ProtocolError, RefusalCode
from stepgrant.feed import CatalogSlice, FeedEvent, Heartbeat
from stepgrant.grant import LEEWAY, Binding
from stepgrant.selector import Selector
from stepgrant.subject import SubjectId
from stepgrant.verify import view as module
from stepgrant.verify.view import RevocationView
from tests.kit.enforcement import (
    AGENT,
    AUDIENCE,
    INSTANCE,
    SECOND,
    GatewayDouble,
    lifted,
    lock,
    some_ulid,
)


class Viewing:
    """A view, and a gateway that sends it events by hand."""

    def __init__(self) -> None:
        self.gateway = GatewayDouble()
        self.clock = self.gateway.clock
        self.view = RevocationView(frozenset({AUDIENCE}))

    def send(self, item) -> None:
        self.view.apply(self.gateway.event(item), self.clock.monotonic())

    def refused(self, **changes) -> RefusalCode | None:
        try:
            claims = self.gateway.claims(**changes)
            self.view.refuse_dead(claims, INSTANCE, self.clock.now(), self.clock.monotonic())
        except GrantRefusedError as error:
            return error.refusal.code
        return None


@pytest.fixture
def viewing() -> Viewing:
    viewing = Viewing()
    viewing.send(viewing.gateway.snapshot())
    return viewing


def test_before_the_snapshot_everything_is_refused_inv_11():
    """INV-11: no view yet."""
    viewing = Viewing()
    assert not viewing.view.trusted
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_a_feed_that_does_not_begin_with_a_snapshot_is_not_trusted():
    viewing = Viewing()
    with pytest.raises(ProtocolError):
        viewing.send(viewing.gateway.heartbeat())
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_a_snapshot_at_another_position_is_not_trusted():
    viewing = Viewing()
    event = replace(viewing.gateway.event(viewing.gateway.snapshot()), position=2, previous_position=1)
    with pytest.raises(ProtocolError):
        viewing.view.apply(event, viewing.clock.monotonic())


def shifted(event: FeedEvent, **changes) -> FeedEvent:
    return replace(event, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"position": 3, "previous_position": 2},
        {"position": 3},
        {"position": 1, "previous_position": 0},
        {"position": 2, "previous_position": 0},
        {"epoch": some_ulid("another epoch")},
    ],
    ids=["gap", "position alone skips", "older position", "older previous position", "another epoch"],
)
def test_rv_03_an_event_that_does_not_follow_ends_trust_for_good_inv_11(viewing, changes):
    """INV-11: a gap, an older position, another epoch."""
    event = viewing.gateway.event(viewing.gateway.heartbeat())
    with pytest.raises(ProtocolError):
        viewing.view.apply(shifted(event, **changes), viewing.clock.monotonic())
    assert viewing.refused() is RefusalCode.FEED_STALE
    with pytest.raises(ProtocolError):
        viewing.view.apply(event, viewing.clock.monotonic())
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_an_unknown_event_ends_trust_inv_11(viewing):
    """INV-11: unknown event."""
    with pytest.raises(ProtocolError):
        viewing.send("something new")
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_a_second_snapshot_in_one_subscription_ends_trust(viewing):
    event = replace(viewing.gateway.event(viewing.gateway.heartbeat()), item=viewing.gateway.snapshot())
    with pytest.raises(ProtocolError):
        viewing.view.apply(event, viewing.clock.monotonic())
    assert not viewing.view.trusted


def test_trust_holds_as_long_as_heartbeats_come(viewing):
    for _ in range(100):
        viewing.clock.advance(SECOND)
        viewing.send(viewing.gateway.heartbeat())
    assert viewing.refused() is None


def test_an_issuer_that_was_never_heard_is_not_fresh(viewing):
    claims = viewing.gateway.claims()
    with pytest.raises(GrantRefusedError):
        viewing.view.refuse_dead(claims, some_ulid("other"), viewing.clock.now(), viewing.clock.monotonic())


def test_heartbeats_of_another_instance_do_not_keep_an_issuer_fresh(viewing):
    for _ in range(6):
        viewing.clock.advance(SECOND)
        viewing.send(Heartbeat(some_ulid("other"), viewing.clock.now(), 1, None))
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_rv_05_heartbeats_that_were_held_back_do_not_make_the_view_fresh_inv_11(viewing):
    """INV-11: freshness is the gateway's time, not the time of arrival."""
    held_back = viewing.gateway.heartbeat()
    viewing.clock.advance(timedelta(seconds=5, milliseconds=1))
    with pytest.raises(ProtocolError):
        viewing.send(held_back)
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_a_feed_that_was_late_from_its_start_is_noticed_by_the_own_clock_inv_11():
    """INV-11: feed stale, though no heartbeat is missing."""
    viewing = Viewing()
    snapshot = viewing.gateway.snapshot()
    viewing.clock.advance(timedelta(seconds=7))
    viewing.send(snapshot)
    assert viewing.refused() is None
    viewing.clock.advance(timedelta(milliseconds=1))
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_the_gateways_time_is_the_best_of_all_heartbeats_carried_on(viewing):
    start = viewing.clock.now()
    assert viewing.view.gateway_time(viewing.clock.monotonic()) == start
    late = viewing.gateway.heartbeat()
    viewing.clock.advance(timedelta(seconds=3))
    viewing.send(late)
    assert viewing.view.gateway_time(viewing.clock.monotonic()) == start + timedelta(seconds=3)


def test_included_events_never_go_back(viewing):
    viewing.send(viewing.gateway.heartbeat(included=7))
    with pytest.raises(ProtocolError):
        viewing.send(viewing.gateway.heartbeat(included=6))
    assert not viewing.view.trusted


def test_a_revocation_in_the_snapshot_counts():
    viewing = Viewing()
    viewing.send(viewing.gateway.snapshot(revoked=(viewing.gateway.revoked(),)))
    assert viewing.refused() is RefusalCode.REVOKED


def test_rv_06_a_revocation_is_kept_until_the_end_of_the_grant_and_the_leeway(viewing):
    revoked = viewing.gateway.revoked()
    viewing.send(revoked)
    while viewing.clock.now() < revoked.expires_at + LEEWAY:
        viewing.clock.advance(SECOND)
        viewing.send(viewing.gateway.heartbeat())
    assert viewing.refused() is RefusalCode.REVOKED
    viewing.clock.advance(SECOND)
    viewing.send(viewing.gateway.heartbeat())
    assert viewing.refused() is None


@pytest.mark.parametrize(
    ("selector", "hit"),
    [
        (Selector(workload=str(AGENT)), True),
        (Selector(workload="spiffe://acme.org/agent"), True),
        (Selector(workload="spiffe://acme.org/agent/sup"), False),
        (Selector(task_type="Refund"), True),
        (Selector(task_type="Triage"), False),
        (Selector(tool="orders.*"), True),
        (Selector(target="pg://orders/*"), True),
        (Selector(target="pg://orders/*", tool="orders.get"), False),
        (Selector(subject="https://login.acme.test#u-17"), False),
    ],
)
def test_a_lock_is_matched_here_as_at_the_gateway(viewing, selector, hit):
    viewing.send(lock(selector))
    assert viewing.refused() is (RefusalCode.LOCKED if hit else None)


def test_a_lock_on_any_workload_of_the_chain_counts(viewing):
    viewing.send(lock(Selector(workload="spiffe://acme.org/agent/origin")))
    assert viewing.refused(chain=("spiffe://acme.org/agent/origin", str(AGENT))) is RefusalCode.LOCKED


def test_a_lock_on_a_subject_refuses_the_grants_of_its_tasks_and_no_others(viewing):
    viewing.send(lock(Selector(subject="https://login.acme.test#u-17")))
    assert viewing.refused(on_behalf_of=SubjectId("https://login.acme.test", "u-17")) is RefusalCode.LOCKED
    assert viewing.refused(on_behalf_of=SubjectId("https://login.acme.test", "u-18")) is None
    assert viewing.refused() is None


def test_a_lifted_lock_refuses_what_was_issued_before_and_is_forgotten_in_the_end(viewing):
    selector, before = Selector(task_type="Refund"), viewing.clock.now()
    viewing.send(lock(selector))
    viewing.send(lifted(selector, before))
    assert viewing.refused(issued_at=before) is RefusalCode.LOCKED
    assert viewing.refused(issued_at=before + SECOND) is None
    for _ in range(61):
        viewing.clock.advance(SECOND)
        viewing.send(viewing.gateway.heartbeat())
    assert viewing.refused(issued_at=before) is None


def test_a_catalog_slice_replaces_the_one_before(viewing):
    viewing.send(CatalogSlice(AUDIENCE, Binding.KEY, ()))
    audience = viewing.view.audience(AUDIENCE)
    assert audience is not None
    assert (audience.binding, dict(audience.tools)) == (Binding.KEY, {})


def test_a_slice_of_an_audience_that_was_not_asked_for_ends_trust(viewing):
    with pytest.raises(ProtocolError):
        viewing.send(CatalogSlice("https://other", Binding.KEY, ()))
    assert not viewing.view.trusted


def test_beyond_its_bounds_the_view_is_not_trusted(viewing, monkeypatch):
    monkeypatch.setattr(module, "MAX_REVOKED", 1)
    viewing.send(viewing.gateway.revoked())
    viewing.send(viewing.gateway.revoked())
    with pytest.raises(ProtocolError):
        viewing.send(replace(viewing.gateway.revoked(), grant_id=some_ulid("second")))
    assert viewing.refused() is RefusalCode.FEED_STALE


def test_beyond_the_bound_of_locks_the_view_is_not_trusted(viewing, monkeypatch):
    monkeypatch.setattr(module, "MAX_LOCKS", 1)
    viewing.send(lock(Selector(task_type="A")))
    with pytest.raises(ProtocolError):
        viewing.send(replace(lock(Selector(task_type="B")), lock_id=some_ulid("second")))
