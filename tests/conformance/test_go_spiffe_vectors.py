"""The certificates and bundles that go-spiffe tests with. Read from STEPGRANT_VECTORS; not part of this repository."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.errors import InvalidBundleError, InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet, X509Bundle, bundle_from_jwks, bundle_from_pem, jwt_bundle_from_jwks
from stepgrant.spiffe.x509 import VerifiedSvid, chain_from_pem, verify_x509_svid

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("STEPGRANT_VECTORS", ROOT.parent / "shared/data/vectors")) / "go-spiffe"
DAY = datetime(2020, 3, 24, 14, 30, tzinfo=UTC)

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no go-spiffe vectors: set STEPGRANT_VECTORS to the folder that holds go-spiffe/"
)


def verify(name: str) -> VerifiedSvid:
    """Verifies a file's chain. Its root is not among the vectors, so its last certificate stands in for it."""
    chain = chain_from_pem((FOLDER / "svid/x509svid" / name).read_bytes())
    at = max(DAY, x509.load_der_x509_certificate(chain[0]).not_valid_before_utc)
    return verify_x509_svid(chain[0], chain[1:], BundleSet((X509Bundle("example.org", chain[-1:]),)), at)


def test_a_good_chain_leads_from_leaf_to_intermediate() -> None:
    assert str(verify("good-leaf-and-intermediate.pem").spiffe_id) == "spiffe://example.org/workload-1"


def test_a_good_leaf_passes_every_rule_and_fails_for_want_of_an_authority_only() -> None:
    with pytest.raises(InvalidSvidError, match="authority itself"):
        verify("good-leaf-only.pem")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("corrupt-cert.pem", "not PEM|can be read"),
        ("not-pem", "not PEM"),
        ("wrong-intermediate-no-ca.pem", "no CA certificate"),
        ("wrong-intermediate-no-key-cert-sign.pem", "may not sign certificates"),
        ("wrong-leaf-ca-true.pem", "cA is true"),
        ("wrong-leaf-cert-sign.pem", "keyCertSign"),
        ("wrong-leaf-crl-sign.pem", "cRLSign"),
        ("wrong-leaf-empty-id.pem", "URI SAN|subject alternative name"),
        ("wrong-leaf-no-digital-signature.pem", "keyCertSign|digitalSignature"),
    ],
)
def test_a_wrong_chain_is_refused_for_what_is_wrong_with_it(name: str, message: str) -> None:
    """INV-11."""
    with pytest.raises(InvalidSvidError, match=message):
        verify(name)


@pytest.mark.parametrize(("name", "count"), [("cert.pem", 1), ("certs.pem", 2)])
def test_pem_bundles_are_read(name: str, count: int) -> None:
    bundle = bundle_from_pem("domain.test", (FOLDER / "bundle/x509bundle" / name).read_bytes())
    assert len(bundle.authorities) == count
    assert all(x509.load_der_x509_certificate(der).public_bytes(Encoding.DER) == der for der in bundle.authorities)


@pytest.mark.parametrize("name", ["corrupted.pem", "empty.pem", "not-pem.pem"])
def test_broken_pem_bundles_are_refused(name: str) -> None:
    with pytest.raises(InvalidBundleError):
        bundle_from_pem("domain.test", (FOLDER / "bundle/x509bundle" / name).read_bytes())


@pytest.mark.parametrize(
    "name", ["spiffebundle_valid_1.json", "spiffebundle_valid_2.json", "spiffebundle_valid_with_wit.json"]
)
def test_bundle_documents_are_read(name: str) -> None:
    document = bundle_from_jwks("domain.test", (FOLDER / "bundle/spiffebundle" / name).read_bytes())
    assert document.bundle.authorities


@pytest.mark.parametrize(
    ("name", "count"),
    [("spiffebundle_valid_1.json", 1), ("spiffebundle_valid_2.json", 6), ("spiffebundle_valid_with_wit.json", 2)],
)
def test_the_jwt_authorities_of_a_bundle_document_are_read_and_keys_of_wit_svids_are_not(name: str, count: int) -> None:
    document = bundle_from_jwks("domain.test", (FOLDER / "bundle/spiffebundle" / name).read_bytes())
    assert len(document.jwt_bundle.authorities) == count


@pytest.mark.parametrize(("name", "count"), [("jwks_valid_1.json", 1), ("jwks_valid_2.json", 2)])
def test_jwt_bundles_are_read(name: str, count: int) -> None:
    bundle = jwt_bundle_from_jwks("domain.test", (FOLDER / "bundle/jwtbundle" / name).read_bytes())
    assert len(bundle.authorities) == count


def test_a_jwt_authority_without_key_id_is_refused() -> None:
    with pytest.raises(InvalidBundleError, match="no `kid`"):
        bundle_from_jwks("domain.test", (FOLDER / "bundle/spiffebundle/spiffebundle_missing_kid.json").read_bytes())
    with pytest.raises(InvalidBundleError, match="no `kid`"):
        jwt_bundle_from_jwks("domain.test", (FOLDER / "bundle/jwtbundle/jwks_missing_kid.json").read_bytes())


def test_a_bundle_document_without_keys_is_refused() -> None:
    with pytest.raises(InvalidBundleError, match="no array `keys`"):
        bundle_from_jwks("domain.test", (FOLDER / "bundle/spiffebundle/spiffebundle_no_keys.json").read_bytes())


def test_of_two_certificates_in_one_x5c_the_first_is_the_authority() -> None:
    """X509-SVID, section 6.2; go-spiffe refuses such a key."""
    document = (FOLDER / "bundle/spiffebundle/spiffebundle_multiple_x509.json").read_bytes()
    bundle = bundle_from_jwks("domain.test", document).bundle
    said = [key["x5c"] for key in json.loads(document)["keys"] if key["use"] == "x509-svid"]
    assert [len(x5c) for x5c in said] == [2]
    assert bundle.authorities == (base64.b64decode(said[0][0]),)


def test_every_file_of_the_vectors_is_one_of_this_page() -> None:
    """A vector that comes new does not go by unseen."""
    page = Path(__file__).read_text()
    names = [
        path.name for path in FOLDER.rglob("*") if path.is_file() and path.name not in {"LICENSE", "SOURCE_COMMIT"}
    ]
    assert len(names) > 20
    assert [name for name in names if f'"{name}"' not in page and f"/{name}" not in page] == []
