"""The root pool of a listener: every trust domain that is known, and no authority that hides another one's."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.spiffe.bundles import X509Bundle
from stepgrant.spiffe.transport import transport_roots
from tests.kit.ca import TestAuthority, look_alike

OURS, PARTNER, OTHER = TestAuthority("acme.org"), TestAuthority("partner.test"), TestAuthority("a.test")


def pool(*federated: X509Bundle) -> list[bytes]:
    """The roots as DER, in their order."""
    pem = transport_roots(OURS.snapshot("gateway", federated=federated))
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem)]


def root(authority: TestAuthority) -> bytes:
    return authority.root.public_bytes(Encoding.DER)


def test_the_pool_has_the_roots_of_all_trust_domains_ours_first() -> None:
    assert pool(OTHER.bundle(), PARTNER.bundle()) == [root(OURS), root(OTHER), root(PARTNER)]


def test_a_bundle_without_authorities_adds_nothing() -> None:
    assert pool(X509Bundle("partner.test", ())) == [root(OURS)]


@pytest.mark.parametrize("identified", [True, False])
@pytest.mark.parametrize("original", [OURS, OTHER])
def test_an_authority_that_looks_like_one_of_another_domain_is_left_out_and_named(caplog, original, identified) -> None:
    """INV-11: a partner must not be able to keep others than its own workloads out."""
    assert pool(OTHER.bundle(), look_alike(original, "partner.test", identified=identified)) == [
        root(OURS),
        root(OTHER),
    ]
    assert f"partner.test vouches for cannot connect: it looks like one of {original.trust_domain}" in caplog.text


def test_the_same_root_under_two_names_and_two_roots_of_one_name_in_one_domain_stay() -> None:
    both = X509Bundle("partner.test", (*look_alike(PARTNER, "partner.test").authorities, root(PARTNER)))
    assert len(pool(both)) == 3
    assert pool(OURS.bundle("partner.test")) == [root(OURS), root(OURS)]


def test_an_authority_that_cannot_be_read_does_not_take_the_listener_down(caplog) -> None:
    assert pool(X509Bundle("partner.test", (b"\x30\x03\x02\x01\x00", root(PARTNER)))) == [root(OURS), root(PARTNER)]
    assert "it cannot be read" in caplog.text
