"""What gets into the trusted feed: only what verifies, and a failure ends trust."""

from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.errors import ProtocolError
from tests.kit.enforcement import INSTANCE, ResourceDouble, SvidKeySigner


@pytest.fixture
def resource() -> ResourceDouble:
    return ResourceDouble()


def key(resource: ResourceDouble, kid: str):
    return resource.feed.key(kid, resource.clock.now())


def test_the_snapshot_brings_keys_and_view(resource):
    assert resource.feed.view.trusted
    assert key(resource, resource.gateway.announced.kid) is not None


def test_a_key_event_makes_a_key_known_before_its_first_use(resource):
    announced = resource.gateway.key(resource.gateway.keys.prepare())
    resource.hear(announced)
    assert key(resource, announced.kid) is not None


def test_rv_05_a_key_event_that_does_not_verify_ends_trust_inv_11(resource):
    """INV-11: a key that the gateway's SVID does not vouch for."""
    announced = replace(resource.gateway.key(resource.gateway.keys.prepare()), signature=b"forged")
    with pytest.raises(ProtocolError):
        resource.hear(announced)
    assert not resource.feed.view.trusted
    assert key(resource, announced.kid) is None


def test_rv_05_a_checkpoint_that_goes_back_ends_trust_across_subscriptions_inv_11(resource):
    """INV-11: checkpoints never go back, not even in a new subscription."""
    gateway = resource.gateway
    resource.hear(gateway.heartbeat(checkpoint=gateway.checkpoint(9)))
    with pytest.raises(ProtocolError):
        resource.begin(heartbeat=gateway.heartbeat(checkpoint=gateway.checkpoint(3)))
    assert resource.feed.view.trusted  # what was there before is untouched; the watcher decides
    with pytest.raises(ProtocolError):
        resource.hear(gateway.heartbeat(checkpoint=gateway.checkpoint(3)))
    assert not resource.feed.view.trusted


def test_a_heartbeat_with_the_checkpoint_of_another_instance_ends_trust(resource):
    checkpoint = replace(resource.gateway.checkpoint(1), instance_id="0" * 26)
    with pytest.raises(ProtocolError):
        resource.hear(resource.gateway.heartbeat(checkpoint=checkpoint))


def test_a_snapshot_replaces_keys_but_no_id_changes_its_key(resource):
    gateway = resource.gateway
    resource.begin(keys=())
    assert key(resource, gateway.announced.kid) is None

    resource.begin()
    other = ResourceDouble().gateway
    other.signer = gateway.signer
    other.keys._signer = gateway.signer
    (forged,) = map(other.key, other.keys.announcements())
    assert forged.kid == gateway.announced.kid == f"{INSTANCE}-1"
    with pytest.raises(ProtocolError, match="another key"):
        resource.begin(keys=(forged,))


def test_a_key_of_a_snapshot_whose_svid_has_run_out_is_left_out(resource):
    gateway = resource.gateway
    old = SvidKeySigner(gateway.trust_domain.issue("gateway", not_after=resource.clock.now() - timedelta(hours=1)))
    gateway.keys._signer = old
    (stale,) = map(gateway.key, gateway.keys.announcements())
    resource.begin(keys=(stale,))
    assert resource.feed.view.trusted
    assert key(resource, stale.kid) is None


def test_a_subscription_begins_with_a_snapshot_only(resource):
    event = resource.gateway.event(resource.gateway.heartbeat())
    with pytest.raises(ProtocolError):
        resource.feed.begin(event, resource.gateway.authority, resource.clock.now(), resource.clock.monotonic())


def test_keys_that_are_looked_up_are_held_to_the_same(resource):
    gateway = resource.gateway
    fresh = gateway.key(gateway.keys.prepare())
    forged = replace(gateway.key(gateway.keys.prepare()), signature=b"forged")
    resource.feed.learn_keys((fresh, forged), gateway.authority, resource.clock.now())
    assert key(resource, fresh.kid) is not None
    assert key(resource, forged.kid) is None
