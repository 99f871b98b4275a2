"""The embedded trust domain: its SVIDs verify as any other's, under the name that it has."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet, bundle_from_jwks
from stepgrant.spiffe.source import take_snapshot
from stepgrant.spiffe.x509 import verify_x509_svid
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.dev import REFRESH_HINT_SECONDS, DevIdentity, DevTrustDomain
from tests.kit.clock import START, ManualClock


def test_its_svids_verify_and_fit_their_keys() -> None:
    clock = ManualClock()
    domain = DevTrustDomain([DevIdentity("gateway", ("stepgrant",))], clock.now)
    svid = domain.issue("gateway")
    key = load_der_private_key(svid.key_der, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    snapshot = take_snapshot(svid.chain_der, key, BundleSet((domain.bundle,)), clock.now())
    assert str(snapshot.spiffe_id) == "spiffe://dev.stepgrant.test/gateway"
    assert snapshot.not_after == svid.not_after == START + timedelta(hours=1)
    names = x509.load_der_x509_certificate(svid.chain_der[0]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["stepgrant"]


def test_id_02_two_dev_trust_domains_do_not_trust_each_other() -> None:
    """INV-11: the same name is not the same authority."""
    ours, theirs = (DevTrustDomain([DevIdentity("a")], ManualClock().now) for _ in range(2))
    with pytest.raises(InvalidSvidError, match="no path"):
        verify_x509_svid(theirs.issue("a").chain_der[0], (), BundleSet((ours.bundle,)), START)


def test_what_is_not_listed_is_not_issued() -> None:
    with pytest.raises(ConfigError, match=r"no identity 'admin'; it has agent/support"):
        DevTrustDomain([DevIdentity("agent/support")], ManualClock().now).issue("admin")


def test_no_key_shows_in_a_repr() -> None:
    domain = DevTrustDomain([DevIdentity("a")], ManualClock().now)
    assert "key" not in repr(domain.issue("a"))


def test_another_name_is_in_its_ids_and_its_bundle_document_says_all_that_vouches_for_them() -> None:
    clock = ManualClock()
    domain = DevTrustDomain([DevIdentity("a")], clock.now, trust_domain="partner.test")
    document = bundle_from_jwks("partner.test", domain.document)
    svid = verify_x509_svid(domain.issue("a").chain_der[0], (), BundleSet((document.bundle,)), START)
    assert str(svid.spiffe_id) == "spiffe://partner.test/a"
    assert document.bundle == domain.bundle
    assert len(document.jwt_bundle.authorities) == 1
    assert document.refresh_hint_seconds == REFRESH_HINT_SECONDS
    clock.advance(timedelta(seconds=1))
    later = bundle_from_jwks("partner.test", DevTrustDomain([], clock.now, trust_domain="partner.test").document)
    assert document.sequence is not None
    assert later.sequence == document.sequence + 1
