"""Keys and checkpoints are trusted only under the gateway's own SVID."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.errors import InvalidInputError, InvalidSvidError
from stepgrant.feed import key_message
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.verify import keys as module
from stepgrant.verify.keys import Checkpoints, GatewayAuthority, TrustedKeys, issuer_instance
from tests.kit.ca import TestAuthority
from tests.kit.enforcement import INSTANCE, GatewayDouble, SvidKeySigner, some_ulid


@pytest.fixture
def gateway() -> GatewayDouble:
    return GatewayDouble()


def announce(gateway: GatewayDouble, signer=None, **changes):
    """The key announced otherwise, genuinely signed by `signer`."""
    key = replace(gateway.announced, **changes)
    signature, chain = (signer or gateway.signer).sign(key_message(key.kid, key.jwk_json, key.not_after))
    return replace(key, signature=signature, svid_chain=chain)


def test_a_key_under_the_gateways_svid_is_trusted_until_its_end(gateway):
    keys = TrustedKeys()
    keys.accept(gateway.announced, gateway.authority, gateway.clock.now())
    kid, end = gateway.announced.kid, gateway.announced.not_after
    assert keys.get(kid, end - timedelta(seconds=1)).instance_id == INSTANCE
    assert keys.get(kid, end) is None
    assert keys.get(f"{INSTANCE}-2", gateway.clock.now()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"kid": f"{INSTANCE}-9"},
        {"not_after": GatewayDouble().announced.not_after + timedelta(hours=1)},
        {"jwk_json": "{}"},
    ],
    ids=["kid", "not_after", "jwk"],
)
def test_what_was_signed_is_the_key_its_id_and_its_end_together(gateway, changes):
    with pytest.raises(InvalidSvidError):
        TrustedKeys().accept(replace(gateway.announced, **changes), gateway.authority, gateway.clock.now())


def test_a_key_under_another_workloads_svid_is_refused_inv_11(gateway):
    """INV-11: the SVID must be the issuer's; one of the same trust domain is not enough."""
    impostor = SvidKeySigner(gateway.trust_domain.issue("agent/support/7"))
    with pytest.raises(InvalidSvidError, match="not of the issuer"):
        TrustedKeys().accept(announce(gateway, impostor), gateway.authority, gateway.clock.now())


def test_a_key_under_our_id_of_a_foreign_authority_is_refused(gateway):
    foreign = TestAuthority("evil.org")
    impostor = SvidKeySigner(foreign.issue("spiffe://acme.org/gateway"))
    authority = GatewayAuthority(gateway.authority.issuer, BundleSet((gateway.trust_domain.bundle(), foreign.bundle())))
    with pytest.raises(InvalidSvidError):
        TrustedKeys().accept(announce(gateway, impostor), authority, gateway.clock.now())


def test_without_a_bundle_nothing_is_trusted(gateway):
    authority = GatewayAuthority(parse_spiffe_id("spiffe://acme.org/gateway"), BundleSet())
    with pytest.raises(InvalidSvidError):
        TrustedKeys().accept(gateway.announced, authority, gateway.clock.now())


def test_tk_15_a_known_id_never_gets_another_key(gateway):
    keys, now = TrustedKeys(), gateway.clock.now()
    keys.accept(gateway.announced, gateway.authority, now)
    keys.accept(announce(gateway), gateway.authority, now)  # the same key, signed again
    other = GatewayDouble(gateway.clock).announced
    with pytest.raises(InvalidInputError, match="another key"):
        keys.accept(announce(gateway, jwk_json=other.jwk_json), gateway.authority, now)


def test_a_later_announcement_does_not_lengthen_a_key(gateway):
    keys, now, end = TrustedKeys(), gateway.clock.now(), gateway.announced.not_after
    keys.accept(gateway.announced, gateway.authority, now)
    keys.accept(announce(gateway, not_after=end + timedelta(hours=1)), gateway.authority, now)
    assert keys.get(gateway.announced.kid, end) is None


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "HS256"},
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"d": "AA"},
        {"kty": "oct"},
        {"crv": "P-384"},
        {"x5u": "a"},
    ],
    ids=str,
)
def test_a_jwk_for_anything_but_verifying_es256_is_refused(gateway, change):
    jwk = {**json.loads(gateway.announced.jwk_json), **change}
    with pytest.raises(InvalidInputError):
        TrustedKeys().accept(announce(gateway, jwk_json=json.dumps(jwk)), gateway.authority, gateway.clock.now())


def test_more_live_keys_than_the_bound_are_refused(gateway, monkeypatch):
    monkeypatch.setattr(module, "MAX_KEYS", 1)
    keys, now = TrustedKeys(), gateway.clock.now()
    keys.accept(gateway.announced, gateway.authority, now)
    with pytest.raises(InvalidInputError, match="more than"):
        keys.accept(announce(gateway, kid=f"{INSTANCE}-2"), gateway.authority, now)
    keys.accept(
        announce(gateway, kid=f"{INSTANCE}-2", not_after=now + timedelta(days=9)),
        gateway.authority,
        gateway.announced.not_after,
    )


@pytest.mark.parametrize(
    "kid", ["", INSTANCE, f"{INSTANCE}-", f"{INSTANCE}-00", f"{INSTANCE.lower()}-1", f"{INSTANCE}-1\n"]
)
def test_a_key_id_is_an_instance_and_a_counter(kid):
    assert issuer_instance(kid) is None
    assert issuer_instance(f"{INSTANCE}-10") == INSTANCE


def test_checkpoints_never_go_back_inv_11(gateway):
    """INV-11: a ledger that got shorter, or changed, is no gateway to trust."""
    checkpoints, now = Checkpoints(), gateway.clock.now()
    checkpoints.accept(gateway.checkpoint(5), gateway.authority, now)
    checkpoints.accept(gateway.checkpoint(5), gateway.authority, now)
    checkpoints.accept(gateway.checkpoint(9), gateway.authority, now)
    for worse in (gateway.checkpoint(5), gateway.checkpoint(8), gateway.checkpoint(9, b"other")):
        with pytest.raises(InvalidInputError):
            checkpoints.accept(worse, gateway.authority, now)
    assert checkpoints.latest(INSTANCE)[0] == 9
    assert checkpoints.latest(some_ulid("other")) is None


def test_a_checkpoint_that_nobody_signed_is_refused(gateway):
    forged = replace(gateway.checkpoint(5), sequence=6)
    with pytest.raises(InvalidSvidError):
        Checkpoints().accept(forged, gateway.authority, gateway.clock.now())
