"""Who is on a connection: verified again behind TLS, and remembered only as long as that holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.errors import IdentityUnavailableError, InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant_gateway.identity import peers
from stepgrant_gateway.identity.peers import PeerVerifier
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.clock import START, ManualClock

ID = "spiffe://acme.org/agent/support"


def evidence(svid: IssuedSvid, *, with_leaf: bool = False) -> dict[str, list[bytes]]:
    """`auth_context()` of a gRPC server: the leaf, and the chain without it."""
    pems = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in svid.chain_der]
    return {"x509_pem_cert": [pems[0]], "x509_pem_cert_chain": [b"".join(pems if with_leaf else pems[1:])]}


class Bench:
    """A verifier whose bundles the test changes, and a count of full verifications."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *authorities: TestAuthority) -> None:
        self.clock = ManualClock()
        self.bundles = BundleSet(tuple(authority.bundle() for authority in authorities))
        self.verifications = 0
        self.verifier = PeerVerifier(lambda: self.bundles, self.clock.now, max_cached=2)
        real = peers.verify_x509_svid

        def counting(*args, **kwargs):
            self.verifications += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(peers, "verify_x509_svid", counting)


@pytest.mark.parametrize("with_leaf", [False, True])
def test_a_verified_peer_is_the_svids_id_its_end_and_the_leafs_digest(
    monkeypatch: pytest.MonkeyPatch, with_leaf: bool
) -> None:
    authority = TestAuthority(intermediate=True)
    bench = Bench(monkeypatch, authority)
    svid = authority.issue("agent/support", not_after=START + timedelta(hours=1))
    peer = bench.verifier.verify(evidence(svid, with_leaf=with_leaf))
    assert (str(peer.spiffe_id), peer.method, peer.not_after) == (ID, "x509", START + timedelta(hours=1))
    assert len(peer.credential_sha256) == 32


def ca_true(authority: TestAuthority) -> IssuedSvid:
    return authority.issue("agent/support", ca=True)


def two_uri_sans(authority: TestAuthority) -> IssuedSvid:
    return authority.issue("agent/support", uris=[ID, "spiffe://acme.org/agent/admin"])


def crl_sign(authority: TestAuthority) -> IssuedSvid:
    return authority.issue("agent/support", crl_sign=True)


def foreign_with_our_id(authority: TestAuthority) -> IssuedSvid:
    return TestAuthority("evil.org").issue(ID)


@pytest.mark.parametrize("forged", [ca_true, two_uri_sans, crl_sign, foreign_with_our_id])
def test_id_01_what_tls_would_let_through_is_refused(
    monkeypatch: pytest.MonkeyPatch, forged: Callable[[TestAuthority], IssuedSvid]
) -> None:
    """INV-11: `auth_context()` is evidence, never proof."""
    authority = TestAuthority()
    with pytest.raises(InvalidSvidError):
        Bench(monkeypatch, authority).verifier.verify(evidence(forged(authority)))


def test_a_federated_authority_cannot_speak_for_our_trust_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-11: bundles are never merged; a trusted foreign CA with a leaf of our ID is refused."""
    ours, theirs = TestAuthority(), TestAuthority("partner.org")
    bench = Bench(monkeypatch, ours, theirs)
    assert bench.verifier.verify(evidence(theirs.issue("x"))).spiffe_id.trust_domain == "partner.org"
    with pytest.raises(InvalidSvidError, match="no path leads"):
        bench.verifier.verify(evidence(theirs.issue(ID)))


@pytest.mark.parametrize("key", ["authorization", "Authorization"])
def test_id_11_a_second_identity_beside_the_certificate_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """INV-11: one identity per connection."""
    authority = TestAuthority()
    bench = Bench(monkeypatch, authority)
    with pytest.raises(InvalidSvidError, match="authorization"):
        bench.verifier.verify(evidence(authority.issue("agent/support")), [(key, "Bearer x")])


def test_id_11_headers_and_tls_names_that_bear_an_identity_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-11: neither `x-forwarded-client-cert` nor gRPC's own `peer_spiffe_id` says who calls."""
    authority = TestAuthority()
    bench = Bench(monkeypatch, authority)
    claims = {
        "peer_spiffe_id": [b"spiffe://acme.org/admin"],
        "x509_subject_alternative_name": [b"spiffe://acme.org/admin"],
    }
    headers = [("x-forwarded-client-cert", "URI=spiffe://acme.org/admin"), ("x-spiffe-id", "spiffe://acme.org/admin")]
    peer = bench.verifier.verify({**evidence(authority.issue("agent/support")), **claims}, headers)
    assert str(peer.spiffe_id) == ID
    with pytest.raises(InvalidSvidError, match="no client certificate"):
        bench.verifier.verify(claims, headers)


def test_a_success_is_remembered_until_the_bundle_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-11: a peer verified under one bundle is verified anew under the next."""
    authority, successor = TestAuthority(), TestAuthority()
    bench = Bench(monkeypatch, authority)
    shown = evidence(authority.issue("agent/support"))
    peer = bench.verifier.verify(shown)
    assert bench.verifier.verify(shown) is peer
    assert bench.verifications == 1
    bench.bundles = BundleSet((authority.bundle(), TestAuthority("partner.org").bundle()))
    bench.verifier.verify(shown)
    assert bench.verifications == 1
    bench.bundles = BundleSet((successor.bundle(),))
    with pytest.raises(InvalidSvidError):
        bench.verifier.recheck(peer, shown)
    assert bench.verifications == 2


def test_a_remembered_success_ends_with_the_svid(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-4: the memory of a success does not outlive `notAfter`."""
    authority = TestAuthority()
    bench = Bench(monkeypatch, authority)
    shown = evidence(authority.issue("agent/support", not_after=START + timedelta(minutes=1)))
    bench.verifier.verify(shown)
    bench.clock.advance(timedelta(minutes=1))
    bench.verifier.verify(shown)
    bench.clock.advance(timedelta(seconds=1))
    with pytest.raises(InvalidSvidError, match="expired"):
        bench.verifier.verify(shown)


def test_the_memory_is_bounded_and_forgets_the_least_used(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = TestAuthority()
    bench = Bench(monkeypatch, authority)
    first, second, third = (evidence(authority.issue(f"agent/{i}")) for i in range(3))
    for shown in (first, second, first, third):
        bench.verifier.verify(shown)
    assert bench.verifications == 3
    bench.verifier.verify(first)
    assert bench.verifications == 3
    bench.verifier.verify(second)
    assert bench.verifications == 4


def test_another_peer_on_the_same_evidence_is_refused_at_a_recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = TestAuthority()
    bench = Bench(monkeypatch, authority)
    peer = bench.verifier.verify(evidence(authority.issue("agent/support")))
    other = evidence(authority.issue("agent/other"))
    with pytest.raises(InvalidSvidError, match="no longer proves"):
        bench.verifier.recheck(peer, other)


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ({"x509_pem_cert": [b"nonsense"]}, "not PEM"),
        ({"x509_pem_cert": [b"a", b"b"]}, "2 values"),
        ({"x509_pem_cert": [b"x" * 300_000]}, "more than"),
        ({}, "no client certificate"),
    ],
)
def test_evidence_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, shown: dict[str, list[bytes]], message: str
) -> None:
    with pytest.raises(InvalidSvidError, match=message):
        Bench(monkeypatch, TestAuthority()).verifier.verify(shown)


def test_without_bundles_nobody_is_anybody() -> None:
    """INV-11: bundle missing."""

    def unavailable() -> BundleSet:
        raise IdentityUnavailableError("gone")

    authority = TestAuthority()
    verifier = PeerVerifier(unavailable, ManualClock().now)
    with pytest.raises(InvalidSvidError, match="no bundles"):
        verifier.verify(evidence(authority.issue("agent/support")))
