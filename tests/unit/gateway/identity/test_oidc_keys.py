"""The keys of an issuer over time: fetched beforehand, kept for a while, asked for again within bounds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.core.errors import FetchError
from stepgrant_gateway.identity.jwks import KeySet, parse_key_set
from stepgrant_gateway.identity.oidc_keys import ASK_AGAIN, MAX_AGE, REFRESH, RETRY, IssuerKeys
from tests.kit.clock import ManualClock
from tests.kit.oidc import Issuer

SECOND = timedelta(seconds=1)


class Fetching:
    """Keys that are, or are not, to be had, and how often they were asked for."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.there: KeySet | None = parse_key_set(Issuer().jwks)
        self.asked = 0
        self.keys = IssuerKeys("https://login.acme.test", self.fetch, self.clock)

    def fetch(self) -> KeySet:
        self.asked += 1
        if self.there is None:
            raise FetchError("nobody is there")
        return self.there

    async def advance(self, span: timedelta) -> None:
        self.clock.advance(span)
        await self.keys.fetched()


async def test_the_set_is_fetched_beforehand_and_again_each_time_that_it_is_due() -> None:
    of = Fetching()
    with pytest.raises(InvalidInputError):
        of.keys.current()
    of.keys.begin()
    await of.keys.fetched()
    first = of.keys.current()
    of.there = parse_key_set(Issuer(algorithm="ES256").jwks)
    await of.advance(REFRESH - SECOND)
    assert of.keys.current() is first
    await of.advance(SECOND)
    assert of.keys.current() is of.there
    assert of.asked == 2
    of.keys.stop()
    await of.advance(10 * REFRESH)
    assert of.asked == 2


async def test_tk_16_the_last_good_set_counts_until_its_age_and_then_nothing_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of = Fetching()
    of.keys.begin()
    await of.keys.fetched()
    good, of.there = of.keys.current(), None
    passed = timedelta(0)
    while passed < MAX_AGE:
        step = min(RETRY, MAX_AGE - passed)
        await of.advance(step)
        passed += step
        assert of.keys.current() is good
    assert "nobody is there" in caplog.text
    await of.advance(SECOND)
    with pytest.raises(InvalidInputError, match="not known now"):
        of.keys.current()
    of.there = good
    await of.advance(RETRY)
    assert of.keys.current() is good


async def test_tk_15_keys_that_are_missing_are_asked_for_at_once_but_not_for_everybody_who_makes_one_up() -> None:
    of = Fetching()
    of.keys.begin()
    await of.keys.fetched()
    assert of.keys.missing()
    assert of.keys.missing()
    await of.keys.fetched()
    assert of.asked == 2
    assert not of.keys.missing()
    await of.advance(ASK_AGAIN - SECOND)
    assert not of.keys.missing()
    await of.advance(SECOND)
    assert of.keys.missing()
    await of.keys.fetched()
    assert of.asked == 3
