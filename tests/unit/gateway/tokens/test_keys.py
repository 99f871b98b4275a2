"""Signing keys: prepared, announced, activated, retired."""

from datetime import timedelta

import pytest

from stepgrant.verify.keys import TrustedKeys
from stepgrant_gateway.tokens.keys import KEY_LIFETIME, KEY_OVERLAP, NoKeyError, SigningKeys
from tests.kit.enforcement import INSTANCE, GatewayDouble, SvidKeySigner


@pytest.fixture
def gateway() -> GatewayDouble:
    return GatewayDouble()


@pytest.fixture
def keys(gateway) -> SigningKeys:
    return SigningKeys(INSTANCE, gateway.signer, gateway.clock)


def test_nothing_signs_before_it_was_announced_and_activated(keys):
    with pytest.raises(NoKeyError):
        keys.active()
    announced = keys.prepare()
    with pytest.raises(NoKeyError):
        keys.active()
    keys.activate(announced.kid)
    assert keys.active().kid == announced.kid == f"{INSTANCE}-1"


def test_rotation_announces_before_it_activates(keys):
    seen = []

    def announce(announced) -> None:
        with pytest.raises(NoKeyError):
            keys.active()
        seen.append(announced.kid)

    assert [keys.rotate(announce).kid] == seen
    assert keys.active().kid == seen[0]


def test_a_failing_announcement_leaves_the_former_key_active(keys):
    first = keys.rotate(lambda _: None)

    def fail(_: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        keys.rotate(fail)
    assert keys.active().kid == first.kid


def test_a_retired_key_stays_announced_until_its_end(keys, gateway):
    first = keys.rotate(lambda _: None)
    assert keys.due() == gateway.clock.now() + KEY_LIFETIME
    gateway.clock.advance(KEY_LIFETIME)
    second = keys.rotate(lambda _: None)
    assert [one.kid for one in keys.announcements()] == [first.kid, second.kid]
    gateway.clock.advance(KEY_OVERLAP)
    assert [one.kid for one in keys.announcements()] == [second.kid]


def test_a_key_that_was_not_replaced_in_time_signs_nothing(keys, gateway):
    keys.rotate(lambda _: None)
    gateway.clock.advance(KEY_LIFETIME + KEY_OVERLAP)
    with pytest.raises(NoKeyError):
        keys.active()


def test_announcements_are_vouched_for_by_the_svid_of_now(keys, gateway):
    keys.rotate(lambda _: None)
    gateway.signer.svid = gateway.trust_domain.issue("gateway")
    (announced,) = keys.announcements()
    assert announced.svid_chain == gateway.signer.svid.chain_der
    TrustedKeys().accept(gateway.key(announced), gateway.authority, gateway.clock.now())


def test_a_key_does_not_show_in_a_repr(keys):
    keys.rotate(lambda _: None)
    assert "PrivateKey" not in repr(keys.active())


def test_what_is_announced_verifies_with_an_svid_of_rsa(gateway):
    from cryptography.hazmat.primitives.asymmetric import rsa

    svid = gateway.trust_domain.issue("gateway", key=rsa.generate_private_key(65537, 2048))
    announced = SigningKeys(INSTANCE, SvidKeySigner(svid), gateway.clock).prepare()
    TrustedKeys().accept(gateway.key(announced), gateway.authority, gateway.clock.now())
    assert announced.not_after == gateway.clock.now() + KEY_LIFETIME + timedelta(minutes=2)


def test_a_key_that_nobody_vouched_for_leaves_nothing_behind(keys, gateway):
    """Verifiers take a bounded number of keys; an outage of the Workload API must not use it up."""
    svid, gateway.signer.svid = gateway.signer.svid, None
    for _ in range(100):
        with pytest.raises(AttributeError):
            keys.rotate(lambda _: None)
    gateway.signer.svid = svid
    assert keys.announcements() == ()
