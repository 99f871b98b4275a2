"""Tokens of OIDC issuers that stand for workloads: remembered while nothing changes that the verification hung on."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.mapping import Mapped
from stepgrant_gateway.identity.oidc_bearers import OidcBearers
from stepgrant_gateway.identity.oidc_keys import MAX_AGE, REFRESH
from stepgrant_gateway.identity.oidc_settings import WorkloadIssuer
from tests.kit.clock import ManualClock
from tests.kit.foreign import ForeignSigner
from tests.kit.oidc import AUDIENCE, Issuer

MAPPED = Mapped(parse_spiffe_id("spiffe://acme.org/ci"), "spiffe://acme.org/ci/{repository_id}", {"owner": "acme"})
CLAIMS = {"owner": "acme", "repository_id": "42"}


class Judging:
    """One issuer whose keys lie in a file, and who judges its tokens."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.issuer, self.path = ManualClock(), Issuer(), folder / "jwks.json"
        self.path.write_bytes(self.issuer.jwks)
        settings = WorkloadIssuer(OidcIssuer(self.issuer.url, AUDIENCE, jwks=self.path), MAPPED)
        self.issuers = Issuers([settings.of], self.clock)
        self.bearers = OidcBearers([settings], self.issuers, self.clock)

    def token(self, **claims: object) -> str:
        return self.issuer.token(self.clock.now(), "runner", lives=2 * MAX_AGE, **{**CLAIMS, **claims})

    async def after(self, span: timedelta) -> None:
        self.clock.advance(span)
        await self.issuers.settled()


@pytest.fixture
async def judging(tmp_path: Path) -> Judging:
    built = Judging(tmp_path)
    await built.issuers.begin()
    return built


async def test_the_peer_is_the_mapped_workload_until_the_token_ends(judging: Judging) -> None:
    token = judging.token()
    for _ in range(2):
        peer = judging.bearers.verify(token)
        assert (str(peer.spiffe_id), peer.method) == ("spiffe://acme.org/ci/42", "oidc")
        assert peer.credential_sha256 == hashlib.sha256(token.encode()).digest()
        assert peer.not_after == judging.clock.now() + 2 * MAX_AGE
    with pytest.raises(InvalidInputError, match="`owner`"):
        judging.bearers.verify(judging.token(owner="evil"))


async def test_it_takes_tokens_of_its_issuers_and_of_nobody_who_looks_like_one(judging: Judging) -> None:
    assert judging.bearers.takes({"iss": judging.issuer.url})
    for issuer in (f"{judging.issuer.url}/", "https://login.acme.test.evil.org", None, ["https://login.acme.test"], 5):
        assert not judging.bearers.takes({"iss": issuer})


async def test_what_was_remembered_does_not_outlive_the_key_nor_the_token_nor_the_age_of_the_keys(
    judging: Judging,
) -> None:
    token = judging.token()
    judging.bearers.verify(token)
    replaced = Issuer(judging.issuer.url, "ES256")
    replaced.signer = ForeignSigner("ES256", replaced.signer.key, "two")
    replaced.publish()
    good = judging.path.read_bytes()
    judging.path.write_bytes(replaced.jwks)
    await judging.after(REFRESH)
    with pytest.raises(InvalidInputError, match="no key"):
        judging.bearers.verify(token)
    judging.path.write_bytes(good)
    await judging.after(REFRESH)
    judging.bearers.verify(token)
    judging.path.unlink()
    passed = timedelta(0)
    while passed <= MAX_AGE:
        await judging.after(REFRESH)
        passed += REFRESH
    with pytest.raises(InvalidInputError, match="not known now"):
        judging.bearers.verify(token)
