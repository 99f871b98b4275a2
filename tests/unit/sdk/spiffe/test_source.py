"""The snapshot of an own identity: verified before anybody gets it, silent about its key."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.source import take_snapshot
from stepgrant.spiffe.x509 import chain_from_pem
from tests.kit.ca import TestAuthority
from tests.kit.clock import START

AUTHORITY = TestAuthority(intermediate=True)
BUNDLES = BundleSet((AUTHORITY.bundle(),))


def test_a_snapshot_carries_chain_key_bundles_and_its_end() -> None:
    svid = AUTHORITY.issue("agent/support", not_after=START + timedelta(hours=1))
    snapshot = take_snapshot(svid.chain_der, svid.key_pem, BUNDLES, START)
    assert str(snapshot.spiffe_id) == "spiffe://acme.org/agent/support"
    assert snapshot.not_after == START + timedelta(hours=1)
    assert chain_from_pem(snapshot.chain_pem) == svid.chain_der


def test_a_snapshot_never_shows_its_key() -> None:
    svid = AUTHORITY.issue("agent/support")
    snapshot = take_snapshot(svid.chain_der, svid.key_pem, BUNDLES, START)
    assert "PRIVATE" not in repr(snapshot)
    assert svid.key_pem.splitlines()[1].decode() not in repr(snapshot) + str(snapshot)


def test_an_own_svid_that_does_not_verify_is_no_identity() -> None:
    """INV-11."""
    svid = AUTHORITY.issue("agent/support", ca=True)
    with pytest.raises(InvalidSvidError, match="CA certificate"):
        take_snapshot(svid.chain_der, svid.key_pem, BUNDLES, START)
    with pytest.raises(InvalidSvidError, match="empty"):
        take_snapshot((), svid.key_pem, BUNDLES, START)


def test_the_key_must_be_the_leafs() -> None:
    svid, other = AUTHORITY.issue("agent/support"), AUTHORITY.issue("agent/support")
    with pytest.raises(InvalidSvidError, match="as a pair"):
        take_snapshot(svid.chain_der, other.key_pem, BUNDLES, START)
    with pytest.raises(InvalidSvidError, match="not PEM") as error:
        take_snapshot(svid.chain_der, b"secret nonsense", BUNDLES, START)
    assert "secret nonsense" not in str(error.value)
