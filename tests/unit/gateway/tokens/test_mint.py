"""Minting: what is signed is what the claims say, within the bounds that verifiers hold."""

import json
from datetime import timedelta

import pytest

from stepgrant.compact import from_base64url
from stepgrant.grant import MAX_GRANT_BYTES, from_payload
from stepgrant_gateway.tokens.keys import KEY_LIFETIME, KEY_OVERLAP, NoKeyError
from stepgrant_gateway.tokens.mint import GrantTooLargeError
from tests.kit.enforcement import INSTANCE, GatewayDouble


@pytest.fixture
def gateway() -> GatewayDouble:
    return GatewayDouble()


def test_a_grant_carries_its_claims_under_our_type_and_key(gateway):
    head, payload, _ = gateway.mint().split(".")
    assert json.loads(from_base64url(head)) == {"alg": "ES256", "kid": f"{INSTANCE}-1", "typ": "stepgrant+jwt"}
    assert from_payload(from_base64url(payload)) == gateway.claims()


def test_exp_is_rounded_down(gateway):
    claims = gateway.claims(expires_at=gateway.clock.now() + timedelta(seconds=5, milliseconds=999))
    payload = from_base64url(gateway.minter.mint(claims).split(".")[1])
    assert from_payload(payload).expires_at == gateway.clock.now() + timedelta(seconds=5)


def test_a_grant_that_no_resource_would_take_is_not_minted(gateway):
    with pytest.raises(GrantTooLargeError):
        gateway.mint(target="pg://" + "x" * MAX_GRANT_BYTES)


def test_a_grant_never_outlives_the_key_that_signs_it_inv_04(gateway):
    """INV-04: a grant ends no later than what vouches for it."""
    end = gateway.clock.now() + KEY_LIFETIME + KEY_OVERLAP
    gateway.mint(expires_at=end)
    with pytest.raises(NoKeyError):
        gateway.mint(expires_at=end + timedelta(seconds=1))
