"""Whatever a SPIFFE agent or a partner sends, it is a value or refused, and costs nobody else anything."""

from __future__ import annotations

from contextlib import suppress

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from spiffe._proto import workload_pb2

from stepgrant.errors import InvalidBundleError, InvalidSvidError
from stepgrant.spiffe.bundles import X509Bundle
from stepgrant.spiffe.jwt_workload import read_jwt_bundles
from stepgrant.spiffe.transport import transport_roots
from stepgrant.spiffe.workload import read_x509_svid
from tests.kit.ca import TestAuthority, snapshot
from tests.kit.foreign import ForeignSigner
from tests.kit.mutations import as_json, mutated

AUTHORITY, PARTNER = TestAuthority(intermediate=True), TestAuthority("partner.test")
SVID = AUTHORITY.issue("gateway")
ENTRY = workload_pb2.X509SVID(
    x509_svid=b"".join(SVID.chain_der),
    x509_svid_key=SVID.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    bundle=b"".join(AUTHORITY.bundle().authorities),
)
ROOT = PARTNER.bundle().authorities[0]
UPDATE = workload_pb2.X509SVIDResponse(svids=[ENTRY], federated_bundles={"spiffe://partner.test": ROOT})
JWKS = as_json({"keys": [ForeignSigner.of("ES256").jwk()]})
KEYS = (SVID.key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()), ENTRY.x509_svid_key)


@given(mutated([UPDATE.SerializeToString()]) | st.binary(max_size=200))
def test_an_update_of_the_workload_api_is_read_or_refused(data: bytes) -> None:
    """INV-11."""
    with suppress(DecodeError, InvalidSvidError, InvalidBundleError):
        read_x509_svid(workload_pb2.X509SVIDResponse.FromString(data))


@given(mutated(KEYS))
def test_a_private_key_is_read_or_refused(key: bytes) -> None:
    entry = workload_pb2.X509SVID(x509_svid=ENTRY.x509_svid, x509_svid_key=key, bundle=ENTRY.bundle)
    with suppress(InvalidSvidError):
        read_x509_svid(workload_pb2.X509SVIDResponse(svids=[entry]))


@given(mutated([ROOT]), st.sampled_from(["spiffe://partner.test", "spiffe://acme.org", "partner.test", ""]))
def test_whatever_a_federated_bundle_is_our_own_svid_and_bundle_are_read(bundle: bytes, name: str) -> None:
    """INV-11: and our bundle is the one that came with our SVID."""
    answer = workload_pb2.X509SVIDResponse(svids=[ENTRY], federated_bundles={name: bundle})
    chain, _, bundles = read_x509_svid(answer)
    assert chain == SVID.chain_der
    assert bundles.get("acme.org") == AUTHORITY.bundle()


@given(mutated([ROOT, AUTHORITY.bundle().authorities[0]]))
def test_whatever_a_partners_root_is_the_listener_has_ours_first(root: bytes) -> None:
    """INV-11."""
    with suppress(InvalidBundleError):
        partner = X509Bundle("partner.test", (root,))
        assert transport_roots(snapshot(SVID, AUTHORITY.bundle(), partner)).startswith(AUTHORITY.bundle().pem)


@given(mutated([JWKS]), st.sampled_from(["spiffe://partner.test", "partner.test", "spiffe://acme.org/x", ""]))
def test_whatever_a_partners_jwt_authorities_are_ours_are_read(document: bytes, name: str) -> None:
    """INV-11."""
    first, *_ = read_jwt_bundles({"spiffe://acme.org": JWKS, name: document})
    assert (first.trust_domain, len(first.authorities)) == ("acme.org", 1)
