"""An identity from files: read again when they change, refused when a key is open to others."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import IdentityUnavailableError, MisuseError
from stepgrant.spiffe.bundles import MAX_BUNDLE_BYTES
from stepgrant.spiffe.files import FileSource
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.clock import START, ManualClock
from tests.kit.jwt import JwtAuthority


class Folder:
    """The three files, and the source over them."""

    def __init__(self, path: Path, authority: TestAuthority, federated: Mapping[str, Path] | None = None) -> None:
        self.chain, self.key, self.bundle = path / "svid.pem", path / "key.pem", path / "bundle.pem"
        self.clock = ManualClock()
        self.changes = 0
        self._ticks = 0
        self.write(authority.issue("agent/support"), authority)
        self.source = FileSource(
            self.chain, self.key, self.bundle, trust_domain="acme.org", now=self.clock.now, federated=federated
        )
        self.source.subscribe(self._heard)

    def _heard(self) -> None:
        self.changes += 1

    def put(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        path.write_bytes(content)
        path.chmod(mode)
        self._ticks += 1  # the file system's clock may be too coarse for two writes of one test
        os.utime(path, ns=(self._ticks, self._ticks))

    def write(self, svid: IssuedSvid, authority: TestAuthority) -> None:
        self.put(self.chain, svid.chain_pem)
        self.put(self.key, svid.key_pem)
        self.put(self.bundle, authority.bundle().pem)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
def folder(tmp_path: Path, authority: TestAuthority) -> Folder:
    return Folder(tmp_path, authority)


def test_the_identity_is_what_the_files_hold(folder: Folder) -> None:
    snapshot = folder.source.current()
    assert str(snapshot.spiffe_id) == "spiffe://acme.org/agent/support"
    assert folder.source.current() is snapshot


def test_changed_files_are_read_again_and_subscribers_hear(folder: Folder, authority: TestAuthority) -> None:
    folder.source.current()
    folder.write(authority.issue("agent/triage"), authority)
    assert folder.source.current().spiffe_id.path == "/agent/triage"
    assert folder.changes == 2


def test_a_bundle_may_be_a_spiffe_bundle_document_and_brings_jwt_authorities(
    folder: Folder, authority: TestAuthority
) -> None:
    signer = JwtAuthority().signer
    root = {"use": "x509-svid", "kty": "EC", "x5c": [b64encode(authority.bundle().authorities[0]).decode()]}
    document = json.dumps({"keys": [root, signer.jwk(use="jwt-svid")]})
    assert folder.source.current().bundles.jwt("acme.org") is None
    folder.put(folder.bundle, f"\n{document}".encode())
    found = folder.source.current().bundles
    assert found.get("acme.org") == authority.bundle()
    assert [one.kid for one in found.jwt("acme.org").authorities] == ["one"]
    folder.put(folder.bundle, document.replace("jwt-svid", "sig").encode()[:-1])
    with pytest.raises(IdentityUnavailableError, match="strict JSON"):
        folder.source.current()


def test_reload_reads_whatever_the_modification_times_say(folder: Folder, authority: TestAuthority) -> None:
    first = folder.source.current()
    assert folder.source.reload() == first
    assert folder.changes == 1


def test_in_the_middle_of_a_rotation_the_last_pair_serves(folder: Folder, authority: TestAuthority) -> None:
    first = folder.source.current()
    new = authority.issue("agent/support")
    folder.put(folder.chain, new.chain_pem)
    assert folder.source.current().leaf_sha256 == first.leaf_sha256
    folder.put(folder.key, new.key_pem)
    assert folder.source.current().leaf_sha256 != first.leaf_sha256


def test_the_last_pair_does_not_serve_under_a_bundle_that_dropped_its_authority(folder: Folder) -> None:
    """INV-11: trust that was taken away is not held on to."""
    folder.source.current()
    folder.put(folder.bundle, TestAuthority().bundle().pem)
    with pytest.raises(IdentityUnavailableError, match="no path leads"):
        folder.source.current()
    assert folder.changes == 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_key_that_is_open_to_others_is_refused(folder: Folder, mode: int) -> None:
    """INV-13: a key that others can read is nobody's identity."""
    folder.key.chmod(mode)
    with pytest.raises(IdentityUnavailableError, match="chmod 600"):
        folder.source.current()


def test_an_expired_svid_is_no_identity(folder: Folder, authority: TestAuthority) -> None:
    """INV-4."""
    folder.write(authority.issue("agent/support", not_after=START + timedelta(minutes=1)), authority)
    folder.source.current()
    folder.clock.advance(timedelta(minutes=2))
    with pytest.raises(IdentityUnavailableError, match="expired"):
        folder.source.current()
    folder.write(authority.issue("agent/support"), authority)
    assert folder.source.current()


def test_a_missing_or_oversized_file_is_said_by_name(folder: Folder) -> None:
    folder.put(folder.bundle, b"x" * (MAX_BUNDLE_BYTES + 1))
    with pytest.raises(IdentityUnavailableError, match=r"bundle\.pem is larger"):
        folder.source.current()
    folder.put(folder.key, b"x" * 20_000)
    folder.bundle.unlink()
    with pytest.raises(IdentityUnavailableError, match=r"bundle\.pem"):
        folder.source.current()


def test_a_federated_file_that_breaks_or_goes_leaves_the_last_good_bundle(tmp_path, authority, caplog) -> None:
    """INV-11: what somebody else writes must not take our own identity away."""
    partner, path = TestAuthority("partner.test"), tmp_path / "partner.pem"
    folder = Folder(tmp_path, authority, {"partner.test": path})
    folder.put(path, partner.bundle().pem)
    assert folder.source.current().bundles.get("partner.test") == partner.bundle()
    for spoil in (lambda: folder.put(path, partner.bundle().pem[:100]), path.unlink):
        spoil()
        folder.write(authority.issue("agent/support"), authority)
        assert folder.source.current().bundles.get("partner.test") == partner.bundle()
        assert "so the last good one counts" in caplog.text
        caplog.clear()
    other = TestAuthority("partner.test").bundle()
    folder.put(path, other.pem)
    assert folder.source.current().bundles.get("partner.test") == other


def test_a_federated_file_that_was_never_good_is_no_identity(tmp_path: Path, authority: TestAuthority) -> None:
    folder = Folder(tmp_path, authority, {"partner.test": tmp_path / "partner.pem"})
    with pytest.raises(IdentityUnavailableError, match=r"partner\.pem"):
        folder.source.current()


def test_the_own_trust_domain_is_not_among_the_federated(tmp_path: Path, authority: TestAuthority) -> None:
    """INV-11: its authorities stand in one file, and no other takes their place."""
    with pytest.raises(MisuseError, match=r"acme\.org is the own trust domain"):
        Folder(tmp_path, authority, {"acme.org": tmp_path / "partner.pem"})


def test_a_closed_source_has_no_identity(folder: Folder) -> None:
    folder.source.current()
    folder.source.close()
    folder.source.close()
    with pytest.raises(IdentityUnavailableError, match="closed"):
        folder.source.current()
