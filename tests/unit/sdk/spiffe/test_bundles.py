"""Trust bundles: parsed within bounds, one per trust domain, never merged."""

from __future__ import annotations

import base64
import json

import pytest

from stepgrant.errors import InvalidBundleError, InvalidSvidError
from stepgrant.spiffe.bundles import (
    MAX_AUTHORITIES,
    MAX_BUNDLE_BYTES,
    MAX_CERTIFICATE_BYTES,
    MAX_TRUST_DOMAINS,
    BundleSet,
    X509Bundle,
    bundle_from_der,
    bundle_from_jwks,
    bundle_from_pem,
    split_der,
)
from stepgrant.spiffe.x509 import chain_from_pem
from tests.kit.ca import TestAuthority

AUTHORITY = TestAuthority()
OTHER = TestAuthority()
DER = AUTHORITY.bundle().authorities[0]
OTHER_DER = OTHER.bundle().authorities[0]


def jwks(*keys: object, **more: object) -> bytes:
    return json.dumps({"keys": list(keys), **more}).encode()


def x509_key(der: bytes = DER) -> dict[str, object]:
    return {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(der).decode()]}


def test_pem_der_and_jwks_say_the_same() -> None:
    from_pem = bundle_from_pem("acme.org", AUTHORITY.bundle().pem + OTHER.bundle().pem)
    from_der = bundle_from_der("acme.org", DER + OTHER_DER)
    from_jwks = bundle_from_jwks("acme.org", jwks(x509_key(), x509_key(OTHER_DER), spiffe_sequence=7))
    assert from_pem == from_der == from_jwks.bundle
    assert from_pem.authorities == (DER, OTHER_DER)
    assert (from_jwks.sequence, from_jwks.refresh_hint_seconds) == (7, None)


def test_a_revision_is_of_the_contents() -> None:
    assert AUTHORITY.bundle().revision == bundle_from_der("acme.org", DER).revision
    assert AUTHORITY.bundle().revision != OTHER.bundle().revision
    assert AUTHORITY.bundle("acme.org").revision != AUTHORITY.bundle("beta.org").revision
    assert X509Bundle("acme.org", (DER, OTHER_DER)).revision != X509Bundle("acme.org", (DER,)).revision


def test_a_set_finds_a_bundle_by_its_exact_trust_domain_only() -> None:
    """INV-11: a missing bundle is None, never another's."""
    found = BundleSet((AUTHORITY.bundle(), OTHER.bundle("beta.org")))
    assert found.get("acme.org") == AUTHORITY.bundle()
    assert found.get("ACME.org") is None
    assert found.get("sub.acme.org") is None
    assert found.get("") is None


def test_id_02_two_bundles_for_one_trust_domain_are_refused() -> None:
    with pytest.raises(InvalidBundleError, match="never merged"):
        BundleSet((AUTHORITY.bundle(), OTHER.bundle()))


def test_an_empty_bundle_can_be_said_and_has_no_pem() -> None:
    assert bundle_from_der("acme.org", b"").authorities == ()
    assert bundle_from_jwks("acme.org", jwks()).bundle.pem == b""


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_certificates_is_no_bundle(pem: bytes) -> None:
    with pytest.raises(InvalidBundleError, match="at least one"):
        bundle_from_pem("acme.org", pem)


@pytest.mark.parametrize(
    "der",
    [b"\x00", b"\x30", b"\x30\x82", DER[:-1], DER + b"\x00", DER + DER[:10], b"\x30\x80\x00\x00", b"\x30\x02\x05\x00"],
)
def test_bytes_that_are_not_whole_certificates_are_no_bundle(der: bytes) -> None:
    with pytest.raises(InvalidBundleError, match="not DER certificates"):
        bundle_from_der("acme.org", der)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "strict JSON"),
        (b"[]", "no array"),
        (b'{"keys": null}', "no array"),
        (b'{"keys": {}}', "no array"),
        (b'{"keys": [], "keys": []}', "strict JSON"),
        (b"[" * 100_000, "strict JSON"),
        (jwks("x"), "not an object"),
        (jwks({"use": "x509-svid"}), "x5c"),
        (jwks({"use": "x509-svid", "x5c": []}), "x5c"),
        (jwks({"use": "x509-svid", "x5c": [7]}), "x5c"),
        (jwks({"use": "x509-svid", "x5c": ["*"]}), "base64"),
        (jwks({"use": "x509-svid", "x5c": ["AAAA"]}), "not a certificate"),
        (jwks(spiffe_sequence=-1), "spiffe_sequence"),
        (jwks(spiffe_sequence=True), "spiffe_sequence"),
        (jwks(spiffe_refresh_hint="60"), "spiffe_refresh_hint"),
    ],
)
def test_a_document_that_is_no_bundle_is_refused(document: bytes, message: str) -> None:
    with pytest.raises(InvalidBundleError, match=message):
        bundle_from_jwks("acme.org", document)


def test_keys_of_other_uses_are_no_authorities() -> None:
    other = {"use": "wit-svid", "kid": "1", "x5c": [base64.b64encode(OTHER_DER).decode()]}
    document = bundle_from_jwks("acme.org", jwks(other, {"kty": "EC"}, x509_key()))
    assert document.bundle.authorities == (DER,)


def test_only_the_first_certificate_of_an_x5c_is_an_authority() -> None:
    key = {"use": "x509-svid", "x5c": [base64.b64encode(der).decode() for der in (DER, OTHER_DER)]}
    assert bundle_from_jwks("acme.org", jwks(key)).bundle.authorities == (DER,)


@pytest.mark.parametrize("trust_domain", ["", "Acme.org", "acme.org/x", "a b", "acme.org\n", "a" * 256])
def test_a_bundle_is_of_a_trust_domain(trust_domain: str) -> None:
    with pytest.raises(InvalidBundleError):
        bundle_from_der(trust_domain, DER)


def test_sizes_and_counts_are_bounded() -> None:
    with pytest.raises(InvalidBundleError, match="more than"):
        bundle_from_pem("acme.org", AUTHORITY.bundle().pem * (MAX_AUTHORITIES + 1))
    with pytest.raises(InvalidBundleError, match="more than"):
        bundle_from_der("acme.org", DER * (MAX_AUTHORITIES + 1))
    with pytest.raises(InvalidBundleError, match="more than"):
        bundle_from_jwks("acme.org", jwks(*[x509_key()] * (MAX_AUTHORITIES + 1)))
    for parse in (bundle_from_pem, bundle_from_der, bundle_from_jwks):
        with pytest.raises(InvalidBundleError, match="more than"):
            parse("acme.org", b" " * (MAX_BUNDLE_BYTES + 1))
    with pytest.raises(InvalidBundleError, match="bytes of DER"):
        X509Bundle("acme.org", (b"x" * (MAX_CERTIFICATE_BYTES + 1),))
    with pytest.raises(InvalidBundleError, match="bundles in one set"):
        BundleSet(tuple(X509Bundle(f"td{i}", ()) for i in range(MAX_TRUST_DOMAINS + 1)))
    with pytest.raises(ValueError, match="more than"):
        split_der(b"\x30\x82\xff\xff" + b"x" * 0xFFFF, 4)


def test_a_certificate_of_a_version_that_is_none_is_no_authority_and_no_chain() -> None:
    """INV-11: cryptography's own error for it is no ValueError (found by mutation)."""
    odd = DER.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), 1)
    body = base64.encodebytes(odd)
    pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    for read in (
        lambda: bundle_from_der("acme.org", odd),
        lambda: bundle_from_pem("acme.org", pem),
        lambda: bundle_from_jwks("acme.org", jwks(x509_key(odd))),
    ):
        with pytest.raises(InvalidBundleError):
            read()
    with pytest.raises(InvalidSvidError):
        chain_from_pem(pem)
