"""Bundle files of other embedded trust domains: read when they change, and the last good one counts."""

from __future__ import annotations

from pathlib import Path

from stepgrant.spiffe.bundles import bundle_from_der, jwt_bundle_from_jwks
from stepgrant_gateway.identity.dev import DevTrustDomain
from stepgrant_gateway.identity.dev_federation import BundleFiles, write_bundle
from tests.kit.clock import ManualClock


def domain() -> DevTrustDomain:
    return DevTrustDomain((), ManualClock().now, trust_domain="partner.test")


def test_a_file_that_comes_later_is_read_and_what_replaces_it_too(tmp_path: Path) -> None:
    path, first, second = tmp_path / "bundle.json", domain(), domain()
    files = BundleFiles({"partner.test": path})
    assert not files.look()
    assert files.x509() == files.jwt() == {}

    write_bundle(path, first.document)
    assert files.look()
    assert not files.look()
    assert bundle_from_der("partner.test", files.x509()["spiffe://partner.test"]) == first.bundle

    write_bundle(path, second.document)
    assert files.look()
    assert bundle_from_der("partner.test", files.x509()["spiffe://partner.test"]) == second.bundle
    jwt = jwt_bundle_from_jwks("partner.test", files.jwt()["spiffe://partner.test"])
    assert jwt == jwt_bundle_from_jwks("partner.test", second.jwks)


def test_what_is_broken_or_gone_leaves_the_last_good_bundle(tmp_path: Path, caplog) -> None:
    path, first = tmp_path / "bundle.json", domain()
    files = BundleFiles({"partner.test": path})
    write_bundle(path, first.document)
    files.look()
    path.write_text("<html>")
    assert not files.look()
    assert "cannot be read" in caplog.text
    path.unlink()
    assert not files.look()
    assert bundle_from_der("partner.test", files.x509()["spiffe://partner.test"]) == first.bundle
