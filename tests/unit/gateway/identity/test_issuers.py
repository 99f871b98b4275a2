"""Issuers by the exact text of their name: what is trusted of each, who hears of new keys, and which keys are theirs still."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.jwks import parse_key_set
from stepgrant_gateway.identity.oidc_keys import MAX_AGE, REFRESH
from tests.kit.clock import ManualClock
from tests.kit.foreign import ForeignSigner
from tests.kit.oidc import AUDIENCE, Issuer

LOGIN, OTHER = "https://login.acme.test", "https://login.other.test"


class Two:
    """Two issuers whose keys lie in files."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.folder = ManualClock(), folder
        self.login, self.other = Issuer(LOGIN), Issuer(OTHER, "ES256")
        self.write()
        settings = [
            OidcIssuer(LOGIN, AUDIENCE, frozenset({"portal"}), jwks=folder / "login.json"),
            OidcIssuer(OTHER, "another", jwks=folder / "other.json"),
        ]
        self.issuers = Issuers(settings, self.clock)

    def write(self) -> None:
        (self.folder / "login.json").write_bytes(self.login.jwks)
        (self.folder / "other.json").write_bytes(self.other.jwks)

    async def refresh(self) -> None:
        self.clock.advance(REFRESH)
        await self.issuers.settled()


@pytest.fixture
async def two(tmp_path: Path) -> Two:
    built = Two(tmp_path)
    await built.issuers.begin()
    return built


async def test_each_issuer_is_trusted_with_its_own_audience_parties_and_keys(two: Two) -> None:
    login, other = two.issuers.trust_in(LOGIN), two.issuers.trust_in(OTHER)
    assert (login.audience, login.parties) == (AUDIENCE, {"portal"})
    assert (other.audience, other.parties) == ("another", frozenset())
    assert login.keys.digest == parse_key_set(two.login.jwks).digest != other.keys.digest


@pytest.mark.parametrize("name", [f"{LOGIN}/", LOGIN.upper(), "https://login.acme.test.evil.org", "", None, 5])
async def test_tk_07_no_other_text_is_the_issuer(two: Two, name: object) -> None:
    assert name not in two.issuers
    assert LOGIN in two.issuers
    with pytest.raises(InvalidInputError, match="no issuer that is configured"):
        two.issuers.trust_in(name)  # type: ignore[arg-type]  # what a token says may be anything


async def test_a_key_is_its_issuer_s_until_a_set_comes_without_it_however_it_is_called(two: Two) -> None:
    [first] = two.issuers.trust_in(LOGIN).keys.sha256.values()
    assert two.issuers.holds(LOGIN, first)
    assert not two.issuers.holds(OTHER, first)
    assert not two.issuers.holds("https://login.none.test", first)
    # Another key by the same name is not that key, and the same key by another name is.
    two.login.signer = ForeignSigner.of("ES256", two.login.signer.kid)
    two.login.publish()
    two.write()
    await two.refresh()
    assert not two.issuers.holds(LOGIN, first)
    two.login.signer = ForeignSigner("ES256", two.login.signer.key, "renamed")
    [second] = two.issuers.trust_in(LOGIN).keys.sha256.values()
    two.login.publish()
    two.write()
    await two.refresh()
    assert two.issuers.holds(LOGIN, second)


async def test_keys_that_are_too_old_open_nothing_and_take_nothing_back(two: Two) -> None:
    [key] = two.issuers.trust_in(LOGIN).keys.sha256.values()
    (two.folder / "login.json").unlink()
    while two.clock.monotonic() <= MAX_AGE + 2 * REFRESH:
        await two.refresh()
    with pytest.raises(InvalidInputError, match="not known now"):
        two.issuers.trust_in(LOGIN)
    assert two.issuers.holds(LOGIN, key)


async def test_who_subscribes_hears_of_each_other_set_and_of_nothing_else(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fails() -> None:
        raise RuntimeError("a subscriber failed")

    two.issuers.subscribe(fails)
    end = two.issuers.subscribe(lambda: heard.append("changed"))
    await two.refresh()
    assert heard == []
    for number in (1, 2):
        two.login.signer = ForeignSigner.of("ES256", f"{number}")
        two.login.publish()
        two.write()
        # One who fails keeps neither the others from hearing nor the keys from being fetched again.
        with caplog.at_level(logging.CRITICAL):
            await two.refresh()
        assert heard == ["changed"] * number
    end()
    two.other.publish(ForeignSigner.of("ES256", "more"))
    two.write()
    await two.refresh()
    assert heard == ["changed"] * 2


async def test_a_file_without_keys_stops_the_start(tmp_path: Path) -> None:
    issuers = Issuers([OidcIssuer(LOGIN, AUDIENCE, jwks=tmp_path / "none.json")], ManualClock())
    with pytest.raises(ConfigError, match=r"none\.json"):
        await issuers.begin()
