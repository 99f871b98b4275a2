"""The identity that shows a JWT-SVID: fetched for the own ID, kept until it ends, fetched anew when anything changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.jwt_source import JwtSvidSource
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import START, ManualClock
from tests.kit.jwt import JwtAuthority

AUDIENCE = "spiffe://acme.org/gateway"
ID = SpiffeId("acme.org", "/agent/support")
MINUTES = timedelta(minutes=5)


class Bench:
    """A source over an identity that the test hands out, and tokens that the test makes."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.authority = JwtAuthority()
        self.inner = FixedSource(TestAuthority().snapshot("agent/support"))
        self.tokens: list[str | Exception] = []
        self.asked: list[tuple[SpiffeId, str]] = []
        self.fetched = threading.Semaphore(0)
        self.changed = threading.Semaphore(0)
        self.source: JwtSvidSource

    def token(self, **claims: object) -> str:
        return self.authority.issue("agent/support", [AUDIENCE], self.clock.now(), **claims)

    def fetch(self, spiffe_id: SpiffeId, audience: str) -> str:
        self.asked.append((spiffe_id, audience))
        answer = self.tokens.pop(0) if self.tokens else IdentityUnavailableError("no more tokens")
        self.fetched.release()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def start(self, *tokens: str | Exception) -> JwtSvidSource:
        self.tokens = list(tokens)
        self.source = JwtSvidSource(self.inner, self.fetch, AUDIENCE, now=self.clock.now)
        self.source.subscribe(self.changed.release)
        return self.source


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.source.close()


def test_a_snapshot_bears_the_token_and_ends_with_the_earlier_of_both(bench: Bench) -> None:
    token = bench.token()
    found = bench.start(token).current()
    assert bench.asked == [(ID, AUDIENCE)]
    assert found.jwt_svid is not None
    assert (found.spiffe_id, found.jwt_svid.token, found.not_after) == (ID, token, START + MINUTES)
    assert found.credential_sha256 != found.leaf_sha256
    assert token not in repr(found)


def test_a_change_of_the_identity_brings_a_new_token(bench: Bench) -> None:
    first, second = bench.token(), bench.token(jti="next")
    source = bench.start(first, second)
    assert source.current().jwt_svid.token == first
    bench.inner.put(TestAuthority().snapshot("agent/support"))
    assert bench.fetched.acquire(timeout=10)
    assert bench.fetched.acquire(timeout=10)
    while source.current().jwt_svid.token == first:
        assert bench.changed.acquire(timeout=10)


def test_the_next_token_is_fetched_before_the_one_at_hand_ends(bench: Bench) -> None:
    """At half of what it has left: here a second, the least time between two."""
    soon = int(START.timestamp()) + 2
    first, second = bench.token(exp=soon), bench.token()
    source = bench.start(first, second)
    while source.current().jwt_svid.token == first:
        assert bench.changed.acquire(timeout=10)
    assert source.current().jwt_svid.token == second


def test_a_token_counts_until_it_ends_also_when_no_newer_one_is_to_be_had(bench: Bench) -> None:
    source = bench.start(bench.token())
    source.current()
    bench.clock.advance(MINUTES - timedelta(microseconds=1))
    assert source.current().jwt_svid is not None
    bench.clock.advance(timedelta(microseconds=1))
    with pytest.raises(IdentityUnavailableError, match="it has expired"):
        source.current()


@pytest.mark.parametrize("failure", [IdentityUnavailableError("not there yet"), RuntimeError("a bug")])
def test_what_could_not_be_fetched_is_tried_again(bench: Bench, failure: Exception) -> None:
    source = bench.start(failure, bench.token())
    assert bench.changed.acquire(timeout=10)
    assert source.current().jwt_svid is not None


@pytest.mark.parametrize(
    ("claims", "wrong"),
    [
        ({"sub": "spiffe://acme.org/agent/other"}, "not of spiffe"),
        ({"aud": ["spiffe://acme.org/other"]}, "does not hold"),
        ({"exp": None}, "`exp`"),
        ({"exp": int(START.timestamp())}, "look at the clocks"),
    ],
)
def test_a_token_that_could_not_be_used_is_not_shown(bench: Bench, claims: dict[str, object], wrong: str) -> None:
    with pytest.raises(IdentityUnavailableError, match=wrong):
        bench.start(bench.token(**claims)).current()


def test_without_an_identity_there_is_none_with_a_token(bench: Bench) -> None:
    source = bench.start(bench.token())
    source.current()
    bench.inner.put(None)
    with pytest.raises(IdentityUnavailableError):
        source.current()


def test_a_token_of_another_id_than_the_identity_has_now_does_not_count(bench: Bench) -> None:
    source = bench.start(bench.token())
    source.current()
    bench.inner.put(TestAuthority().snapshot("agent/triage"))
    with pytest.raises(IdentityUnavailableError, match="agent/triage"):
        source.current()


def test_a_closed_source_has_nothing(bench: Bench) -> None:
    source = bench.start(bench.token())
    source.current()
    source.close()
    with pytest.raises(IdentityUnavailableError):
        source.current()
