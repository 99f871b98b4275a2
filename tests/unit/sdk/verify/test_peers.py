"""Who is on a TLS connection, by SPIFFE's rules and not by TLS's."""

import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.errors import GrantRefusedError, RefusalCode
from stepgrant.verify import peers as module
from stepgrant.verify.peers import TlsPeers
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import START, ManualClock


def pem(*chain: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)


def evidence(svid) -> dict[str, list[bytes]]:
    return {"x509_pem_cert": [pem(svid.leaf_der)], "x509_pem_cert_chain": [pem(*svid.chain_der[1:])]}


class Peers:
    def __init__(self) -> None:
        self.trust_domain = TestAuthority(intermediate=True)
        self.clock = ManualClock()
        self.source = FixedSource(self.trust_domain.snapshot("resource/orders"))
        self.peers = TlsPeers(self.source, self.clock)

    def refused(self, evidence) -> str:
        with pytest.raises(GrantRefusedError) as caught:
            self.peers.holder(evidence)
        assert caught.value.refusal.code is RefusalCode.HOLDER
        return caught.value.refusal.reason


@pytest.fixture
def peers() -> Peers:
    return Peers()


def test_an_svid_is_a_holder(peers):
    svid = peers.trust_domain.issue("agent/support/7")
    holder = peers.peers.holder(evidence(svid))
    assert str(holder.spiffe_id) == "spiffe://acme.org/agent/support/7"
    assert holder.certificate_sha256 == hashlib.sha256(svid.leaf_der).digest()
    assert peers.peers.holder(evidence(svid)) == holder


def test_a_chain_that_comes_with_its_leaf_means_the_same(peers):
    svid = peers.trust_domain.issue("agent/support/7")
    whole = {"x509_pem_cert": [pem(svid.leaf_der)], "x509_pem_cert_chain": [pem(*svid.chain_der)]}
    assert peers.peers.holder(whole) == peers.peers.holder(evidence(svid))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ca": True},
        {"crl_sign": True},
        {"key_cert_sign": True},
        {"digital_signature": False},
        {"uris": ["spiffe://acme.org/a", "spiffe://acme.org/b"]},
        {"uris": []},
        {"not_after": START - timedelta(seconds=1)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_tls_would_let_pass_is_refused(peers, wrong):
    assert "no SVID" in peers.refused(evidence(peers.trust_domain.issue("agent/support/7", **wrong)))


def test_a_foreign_authority_cannot_make_our_ids(peers):
    foreign = TestAuthority("evil.org")
    peers.source.put(peers.trust_domain.snapshot("resource/orders", federated=[foreign.bundle()]))
    peers.refused(evidence(foreign.issue("spiffe://acme.org/agent/support/7")))
    assert str(peers.peers.holder(evidence(foreign.issue("agent"))).spiffe_id) == "spiffe://evil.org/agent"


def test_a_success_is_not_remembered_beyond_its_bundle_or_its_end(peers):
    svid = peers.trust_domain.issue("agent/support/7", not_after=START + timedelta(hours=1))
    peers.peers.holder(evidence(svid))
    other = TestAuthority()
    peers.source.put(other.snapshot("resource/orders"))
    peers.refused(evidence(svid))
    peers.source.put(peers.trust_domain.snapshot("resource/orders"))
    peers.peers.holder(evidence(svid))
    peers.clock.advance(timedelta(hours=2))
    peers.refused(evidence(svid))


def test_without_an_own_identity_nobody_is_anybody_inv_11(peers):
    """INV-11: bundle missing."""
    peers.source.put(None)
    peers.refused(evidence(peers.trust_domain.issue("agent/support/7")))


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"x509_pem_cert": []},
        {"x509_pem_cert": [b"a", b"b"]},
        {"x509_pem_cert": [b"x" * 10**6]},
        {"x509_pem_cert": [b"x"]},
    ],
    ids=["none", "empty", "two", "large", "garbage"],
)
def test_evidence_that_is_none_is_refused(peers, shape):
    peers.refused(shape)


def test_successes_are_bounded(peers, monkeypatch):
    monkeypatch.setattr(module, "MAX_CACHED", 1)
    for name in ("a", "b"):
        peers.peers.holder(evidence(peers.trust_domain.issue(name)))
    assert len(peers.peers._known) == 1


def test_two_leaves_are_refused(peers):
    one, two = peers.trust_domain.issue("a"), peers.trust_domain.issue("b")
    peers.refused({"x509_pem_cert": [pem(one.leaf_der, two.leaf_der)]})
