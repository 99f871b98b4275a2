"""X.509-SVIDs: every rule of the specification, broken one at a time."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.bundles import MAX_CERTIFICATE_BYTES, BundleSet, X509Bundle
from stepgrant.spiffe.x509 import (
    MAX_CHAIN,
    MAX_CHAIN_BYTES,
    VerifiedSvid,
    chain_from_der,
    chain_from_pem,
    verify_x509_svid,
)
from tests.kit.ca import EARLY, LATE, IssuedSvid, TestAuthority
from tests.kit.clock import START

AUTHORITY = TestAuthority()
NESTED = TestAuthority(intermediate=True)
ID = "spiffe://acme.org/agent/support"


def verify(svid: IssuedSvid, authority: TestAuthority = AUTHORITY, now: datetime = START) -> VerifiedSvid:
    return verify_x509_svid(svid.leaf_der, svid.chain_der[1:], BundleSet((authority.bundle(),)), now)


def test_a_good_svid_is_its_id_its_times_its_digest_and_its_key() -> None:
    svid = NESTED.issue("agent/support", not_before=START, not_after=START + timedelta(hours=1))
    verified = verify(svid, NESTED)
    assert str(verified.spiffe_id) == ID
    assert (verified.not_before, verified.not_after) == (START, START + timedelta(hours=1))
    assert verified.leaf_sha256 == hashlib.sha256(svid.leaf_der).digest()
    assert (verified.leaf_der, verified.intermediates_der) == (svid.leaf_der, svid.chain_der[1:])
    assert verified.bundle_revision == NESTED.bundle().revision


def test_what_spiffe_does_not_demand_is_not_demanded() -> None:
    """Neither key identifiers nor EKU nor basic constraints on the leaf, nor any name beside the URI."""
    bare = AUTHORITY.issue("agent/support", key_identifiers=False, extended_key_usage=None, ca=None)
    assert str(verify(bare).spiffe_id) == ID


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
    ],
    ids=["RSA-2048", "P-384", "P-521"],
)
def test_strong_keys_pass(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    assert str(verify(AUTHORITY.issue("agent/support", key=key)).spiffe_id) == ID


UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")
ALIEN = {
    "a CA certificate": ({"ca": True}, "cA is true"),
    "two URI SANs": ({"uris": [ID, "spiffe://acme.org/agent/admin"]}, "2 URI SANs"),
    "the same URI SAN twice": ({"uris": [ID, ID]}, "2 URI SANs"),
    "a URI SAN beside the ID": ({"uris": [ID, "https://acme.org"]}, "2 URI SANs"),
    "no URI SAN": ({"uris": [], "dns": ["acme.org"]}, "0 URI SANs"),
    "no SAN": ({"uris": []}, "no subject alternative name"),
    "a URI that is no SPIFFE ID": ({"uris": ["https://acme.org/agent"]}, "does not begin with spiffe://"),
    "an ID to be normalised": ({"uris": ["spiffe://acme.org/a/../b"]}, "path segment"),
    "an ID in upper case": ({"uris": ["spiffe://ACME.org/a"]}, "trust domain"),
    "an ID with a line break": ({"uris": [ID + "\n"]}, "path segment|can be read"),
    "an ID without a path": ({"uris": ["spiffe://acme.org"]}, "no path"),
    "keyCertSign": ({"key_cert_sign": True}, "keyCertSign"),
    "cRLSign": ({"crl_sign": True}, "cRLSign"),
    "no digitalSignature": ({"digital_signature": False}, "no key usage digitalSignature"),
    "no key usage": ({"key_usage": False}, "no critical key usage"),
    "a key usage that may be ignored": ({"key_usage_critical": False}, "no critical key usage"),
    "EKU for clients only": ({"extended_key_usage": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "extended key usage"),
    "EKU for servers only": ({"extended_key_usage": [ExtendedKeyUsageOID.SERVER_AUTH]}, "extended key usage"),
    "EKU for neither": ({"extended_key_usage": [ExtendedKeyUsageOID.CODE_SIGNING]}, "extended key usage"),
    "a weak RSA key": ({"key": rsa.generate_private_key(65537, 1024)}, "2048"),
    "an odd curve": ({"key": ec.generate_private_key(ec.SECP256K1())}, "curve"),
    "EdDSA": ({"key": ed25519.Ed25519PrivateKey.generate()}, "neither RSA"),
    "a critical extension nobody knows": ({"extra": [(UNKNOWN, True)]}, "no path leads"),
    "expired": ({"not_after": START - timedelta(seconds=1)}, "expired at 2026-11-21T11:59:59Z"),
    "not yet valid": ({"not_before": START + timedelta(seconds=1)}, "not valid before"),
}


@pytest.mark.parametrize("what", ALIEN)
def test_id_03_a_leaf_that_breaks_one_rule_is_refused_and_the_rule_is_named(what: str) -> None:
    """INV-11: a leaf with CA:true, two URI SANs, cRLSign or whatever else of this table."""
    quirks, message = ALIEN[what]
    with pytest.raises(InvalidSvidError, match=message):
        verify(AUTHORITY.issue("agent/support", **quirks))


def test_a_foreign_trust_domains_leaf_with_our_id_is_refused() -> None:
    """INV-11: the bundle of the ID's own trust domain judges, also where the foreign one is trusted for itself."""
    foreign = TestAuthority("evil.org")
    both = BundleSet((AUTHORITY.bundle(), foreign.bundle()))
    honest = foreign.issue("x")
    assert verify_x509_svid(honest.leaf_der, (), both, START).spiffe_id.trust_domain == "evil.org"
    forged = foreign.issue(ID)
    with pytest.raises(InvalidSvidError, match=r"no path leads from the leaf of spiffe://acme\.org"):
        verify_x509_svid(forged.leaf_der, (), both, START)


@pytest.mark.parametrize("bundles", [BundleSet(), BundleSet((X509Bundle("acme.org", ()),))], ids=["missing", "empty"])
def test_without_a_bundle_nothing_is_trusted(bundles: BundleSet) -> None:
    """INV-11: bundle missing."""
    with pytest.raises(InvalidSvidError, match="no bundle"):
        verify_x509_svid(AUTHORITY.issue("a").leaf_der, (), bundles, START)


def test_the_times_of_the_whole_path_count() -> None:
    """INV-4: an SVID does not outlive the authority that vouches for it."""
    ending = TestAuthority(root_not_after=START + timedelta(minutes=5))
    svid = ending.issue("agent/support")
    assert verify(svid, ending).not_after == START + timedelta(minutes=5)
    with pytest.raises(InvalidSvidError, match="no path"):
        verify(svid, ending, START + timedelta(minutes=6))


def test_the_edges_of_validity_belong_to_it() -> None:
    svid = AUTHORITY.issue("a", not_before=START, not_after=START + timedelta(seconds=1))
    assert verify(svid, now=START)
    assert verify(svid, now=START + timedelta(seconds=1))


def test_a_chain_without_its_intermediate_leads_nowhere() -> None:
    with pytest.raises(InvalidSvidError, match="no path"):
        verify_x509_svid(NESTED.issue("a").leaf_der, (), BundleSet((NESTED.bundle(),)), START)


def test_a_leaf_that_got_into_the_bundle_does_not_vouch_for_itself() -> None:
    leaf = AUTHORITY.issue("agent/support").leaf_der
    with pytest.raises(InvalidSvidError, match="authority itself"):
        verify_x509_svid(leaf, (), BundleSet((X509Bundle("acme.org", (leaf,)),)), START)


def test_a_leaf_cannot_vouch_for_another_leaf() -> None:
    """INV-11: intermediates are signing certificates."""
    issuer, leaf = NESTED.issue("agent/mallory"), NESTED.issue("agent/support")
    with pytest.raises(InvalidSvidError, match="no CA certificate"):
        verify_x509_svid(leaf.leaf_der, (*leaf.chain_der[1:], issuer.leaf_der), BundleSet((NESTED.bundle(),)), START)


def test_an_intermediate_that_may_not_sign_certificates_is_refused() -> None:
    odd = AUTHORITY.issue("intermediate", ca=True, key_cert_sign=False)
    leaf = AUTHORITY.issue("agent/support")
    with pytest.raises(InvalidSvidError, match="may not sign certificates"):
        verify_x509_svid(leaf.leaf_der, (odd.leaf_der,), BundleSet((AUTHORITY.bundle(),)), START)


def test_a_changed_byte_of_the_leaf_is_noticed() -> None:
    der = bytearray(AUTHORITY.issue("agent/support").leaf_der)
    der[-1] ^= 1
    with pytest.raises(InvalidSvidError):
        verify_x509_svid(bytes(der), (), BundleSet((AUTHORITY.bundle(),)), START)


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"nonsense", AUTHORITY.issue("a").leaf_der[:-1]])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(InvalidSvidError, match="that can be read"):
        verify_x509_svid(der, (), BundleSet((AUTHORITY.bundle(),)), START)


def test_ds_03_counts_and_sizes_are_bounded_before_anything_is_parsed() -> None:
    bundles = BundleSet((AUTHORITY.bundle(),))
    with pytest.raises(InvalidSvidError, match="9 certificates, more than 8"):
        verify_x509_svid(b"", [b""] * MAX_CHAIN, bundles, START)
    with pytest.raises(InvalidSvidError, match="more than 16384 bytes"):
        verify_x509_svid(b"x" * (MAX_CERTIFICATE_BYTES + 1), (), bundles, START)


def test_chains_are_read_from_pem_and_from_der_leaf_first() -> None:
    svid = NESTED.issue("agent/support")
    assert chain_from_pem(svid.chain_pem) == svid.chain_der
    assert chain_from_der(b"".join(svid.chain_der)) == svid.chain_der


@pytest.mark.parametrize(
    "encoded", [b"", b"nonsense", b"x" * (MAX_CHAIN_BYTES + 1), NESTED.issue("a").chain_der[0] * 9]
)
def test_what_is_no_chain_is_refused(encoded: bytes) -> None:
    for parse in (chain_from_pem, chain_from_der):
        with pytest.raises(InvalidSvidError):
            parse(encoded)


def test_a_chain_of_too_many_certificates_is_refused() -> None:
    pem = AUTHORITY.root.public_bytes(Encoding.PEM)
    assert len(chain_from_pem(pem * MAX_CHAIN)) == MAX_CHAIN
    with pytest.raises(InvalidSvidError, match="larger than"):
        chain_from_pem(pem * (MAX_CHAIN + 1))


def test_the_kit_issues_for_all_times_unless_told_otherwise() -> None:
    verified = verify(AUTHORITY.issue("a"))
    assert (verified.not_before, verified.not_after) == (EARLY, LATE)
