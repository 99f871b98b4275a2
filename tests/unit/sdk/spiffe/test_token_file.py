"""A token and a bundle in files: what is shown is what lies there now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.token_file import TokenFileSource
from tests.kit.ca import TestAuthority
from tests.kit.clock import START, ManualClock
from tests.kit.foreign import ForeignSigner

AUTHORITY = TestAuthority("acme.org")
SIGNER = ForeignSigner.of("ES256")
END = int(START.timestamp()) + 60


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def source(tmp_path: Path, clock: ManualClock) -> TokenFileSource:
    (tmp_path / "bundle.pem").write_bytes(AUTHORITY.root.public_bytes(Encoding.PEM))
    (tmp_path / "token").write_text(SIGNER.sign({"exp": END}) + "\n")
    return TokenFileSource(tmp_path / "token", tmp_path / "bundle.pem", trust_domain="acme.org", now=clock.now)


def test_the_token_is_what_is_shown_and_the_gateway_is_known_by_the_bundle(
    source: TokenFileSource, tmp_path: Path
) -> None:
    snapshot = source.current()
    assert snapshot.jwt_svid is not None
    assert snapshot.jwt_svid.token == (tmp_path / "token").read_text().strip()
    assert snapshot.bundles.get("acme.org") == AUTHORITY.bundle()
    assert (snapshot.chain_der, snapshot.not_after) == ((), START + timedelta(seconds=60))
    assert snapshot.jwt_svid.token not in repr(snapshot)


def test_a_new_token_is_shown_from_the_next_look_on_and_is_told(source: TokenFileSource, tmp_path: Path) -> None:
    told: list[Callable[[], None] | int] = []
    source.subscribe(lambda: told.append(1))
    source.current()
    assert told == []
    (tmp_path / "token").write_text(SIGNER.sign({"exp": END + 60}))
    assert source.current().not_after == START + timedelta(seconds=120)
    assert told == [1]


@pytest.mark.parametrize(
    "token", ["", "no token", "a.b.c", SIGNER.sign({}), SIGNER.sign({"exp": "1"}), SIGNER.sign({"exp": 1.5}), "\u00e9"]
)
def test_what_is_no_token_with_an_end_is_no_identity(source: TokenFileSource, tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(IdentityUnavailableError):
        source.current()


def test_a_token_that_has_expired_is_no_identity_nor_is_a_closed_source(
    source: TokenFileSource, clock: ManualClock
) -> None:
    clock.advance(timedelta(seconds=60))
    with pytest.raises(IdentityUnavailableError, match="expired"):
        source.current()
    source.close()
    with pytest.raises(IdentityUnavailableError, match="closed"):
        source.current()


def test_files_are_read_within_bounds(source: TokenFileSource, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"x" * 9000)
    with pytest.raises(IdentityUnavailableError, match="larger than"):
        source.current()
