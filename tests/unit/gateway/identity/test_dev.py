"""The embedded trust domain: its SVIDs verify as any other's, and dev.toml says what it may say."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.source import take_snapshot
from stepgrant.spiffe.x509 import verify_x509_svid
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.dev import DevIdentity, DevTrustDomain, parse_dev_toml
from tests.kit.clock import START, ManualClock

GOOD = """
# who there is
[identities."agent/support"]
[identities.gateway]
dns = ["stepgrant"]
"""


def test_its_svids_verify_and_fit_their_keys() -> None:
    clock = ManualClock()
    domain = DevTrustDomain(parse_dev_toml(GOOD), clock.now)
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


def test_dev_toml_lists_identities() -> None:
    assert parse_dev_toml(GOOD) == (DevIdentity("agent/support"), DevIdentity("gateway", ("stepgrant",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 1 to 256 tables"),
        ("identities = 3", "has 1 to 256 tables"),
        ("[identities]", "has 1 to 256 tables"),
        ("[identities", r"dev\.toml: "),
        ("[identities.a]\n[other]", r"dev\.toml:2: unknown key `other`"),
        ("[identities.a]\n\ndsn = []", r"dev\.toml:3: unknown key `dsn` of 'a'"),
        ('[identities."a b"]', r"dev\.toml:1: identity 'a b'"),
        ('[identities."/a"]', r"dev\.toml:1: "),
        ('[identities."a/../b"]', r"dev\.toml:1: "),
        ("[identities]\na = 1", r"dev\.toml:2: identity 'a' is not a table|dev\.toml:1"),
        ('[identities.a]\ndns = "x"', "array of DNS names"),
        ('[identities.a]\ndns = ["UPPER"]', "array of DNS names"),
        ('[identities.a]\ndns = ["*.x"]', "array of DNS names"),
        ("[identities.a]\ndns = [7]", "array of DNS names"),
        ('[identities.a]\ndns = ["x\\n"]', "array of DNS names"),
    ],
)
def test_whatever_else_dev_toml_says_is_refused_with_its_place(text: str, message: str) -> None:
    """INV-13."""
    with pytest.raises(ConfigError, match=message):
        parse_dev_toml(text)
