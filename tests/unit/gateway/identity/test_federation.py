"""Foreign bundles that are kept fresh: what is good takes effect at once, what is not leaves the last good one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.bundles import BundleSet, bundle_from_jwks
from stepgrant_gateway.core.errors import BundleUnavailableError
from stepgrant_gateway.core.observations import Count
from stepgrant_gateway.identity.endpoints import Endpoint, Profile
from stepgrant_gateway.identity.federation import FederatedIdentity
from stepgrant_gateway.identity.refreshing import DEFAULT, FIRST_RETRY
from stepgrant_gateway.identity.relations import Relation
from stepgrant_gateway.storage.memory import MemorySnapshots
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import ManualClock
from tests.kit.endpoints import bundle_document

OURS, FIRST, SECOND = TestAuthority(), TestAuthority("partner.test"), TestAuthority("partner.test")
ENDPOINT = Endpoint("partner.test", "https://partner.test/bundle", Profile.WEB)
PATIENCE = 10
UTF_16 = bundle_document(SECOND.bundle(), sequence=2).decode().encode("utf-16")
LATE = DEFAULT * 1.1


class Counted:
    """An observer that counts."""

    def __init__(self) -> None:
        self.counts: list[Count] = []

    def decided(self, *_: object) -> None:
        """Nothing."""

    def count(self, what: Count, label: str = "", by: float = 1.0) -> None:
        self.counts.append(what)

    def time(self, *_: object) -> None:
        """Nothing."""


class Federated:
    """A federated identity whose one endpoint says what the test puts in; each answer is waited for."""

    def __init__(self, held: bytes | None = None) -> None:
        self.clock = ManualClock()
        self.own = FixedSource(OURS.snapshot("gateway"))
        self.says: bytes | Exception = bundle_document(FIRST.bundle())
        self.seen: list[BundleSet] = []
        self.kept = MemorySnapshots()
        self.observer = Counted()
        self.changes = 0
        self.relation = Relation(ENDPOINT, "origin", None if held is None else bundle_from_jwks("partner.test", held))
        self.identity = FederatedIdentity(
            self.own, [self.relation], self.clock, lambda count: b"\x80" + bytes(count - 1),
            kept=self.kept, observer=self.observer, fetch=self.fetch,
        )  # fmt: skip
        self.identity.subscribe(self.changed)

    def changed(self) -> None:
        self.changes += 1

    def fetch(self, endpoint: Endpoint, bundles: BundleSet, now: datetime) -> bytes:
        self.seen.append(bundles)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def answered(self, act: Callable[[], object]) -> None:
        """Returns when `act` has made the endpoint be asked, and the answer has taken effect."""
        before = self.relation.timer
        act()
        async with asyncio.timeout(PATIENCE):
            while self.relation.timer is before:  # noqa: ASYNC110 - a thread brings the answer, and no event says so
                await asyncio.sleep(0)

    async def start(self) -> None:
        await self.answered(self.identity.start)

    async def later(self, says: bytes | Exception, span: timedelta = LATE) -> None:
        """The endpoint says this when it is asked next, that much later."""
        self.says = says
        await self.answered(lambda: self.clock.advance(span))

    def authorities(self) -> tuple[bytes, ...]:
        bundle = self.identity.current().bundles.get("partner.test")
        return () if bundle is None else bundle.authorities


@pytest.fixture
async def federated():
    one = Federated()
    await one.start()
    yield one
    one.identity.close()


async def test_a_fetched_bundle_stands_beside_the_own_one_and_everybody_hears_of_it(federated: Federated) -> None:
    snapshot = federated.identity.current()
    assert federated.authorities() == FIRST.bundle().authorities
    assert snapshot.bundles.get("acme.org") == OURS.bundle()
    assert federated.changes == 1
    assert federated.identity.current() is snapshot


async def test_an_authority_that_left_is_out_at_the_next_fetch_and_nothing_is_told_without_a_change(federated) -> None:
    await federated.later(bundle_document(FIRST.bundle(), SECOND.bundle(), sequence=2))
    assert set(federated.authorities()) == {*FIRST.bundle().authorities, *SECOND.bundle().authorities}
    await federated.later(bundle_document(SECOND.bundle(), FIRST.bundle(), sequence=2))
    assert federated.changes == 2
    await federated.later(bundle_document(SECOND.bundle(), sequence=3))
    assert federated.authorities() == SECOND.bundle().authorities
    assert federated.changes == 3
    assert federated.identity.sequence("partner.test") == 3
    assert federated.identity.sequence("acme.org") is None


async def test_an_empty_bundle_means_that_nobody_of_it_is_trusted_any_more(federated: Federated) -> None:
    await federated.later(bundle_document(sequence=2))
    assert federated.authorities() == ()


async def test_what_went_back_is_refused_counted_and_said_aloud(federated: Federated, caplog) -> None:
    """INV-11: an old bundle brings an authority back that was taken out."""
    await federated.later(bundle_document(SECOND.bundle(), sequence=5))
    await federated.later(bundle_document(FIRST.bundle(), sequence=4))
    assert federated.authorities() == SECOND.bundle().authorities
    assert federated.observer.counts == [Count.BUNDLE_REFUSED]
    assert "went back from spiffe_sequence 5 to 4" in caplog.text
    await federated.later(bundle_document(FIRST.bundle(), sequence=6), FIRST_RETRY * 1.1)
    assert federated.authorities() == FIRST.bundle().authorities


@pytest.mark.parametrize(
    "says", [BundleUnavailableError("away"), b"<html>", b'{"keys": 1}', UTF_16, ZeroDivisionError()]
)
async def test_an_endpoint_that_is_away_or_broken_leaves_the_last_good_bundle_and_is_seen(says, caplog) -> None:
    federated = Federated()
    await federated.start()
    await federated.later(says)
    for _ in range(10):
        await federated.later(says)
    assert federated.authorities() == FIRST.bundle().authorities
    assert list(federated.identity.stale()) == ["partner.test"]
    assert federated.identity.stale()["partner.test"] in caplog.text
    await federated.later(bundle_document(FIRST.bundle()))
    assert federated.identity.stale() == {}
    assert "gives the bundle of partner.test again" in caplog.text
    federated.identity.close()


async def test_one_failure_is_not_stale_and_is_asked_again_soon(federated: Federated) -> None:
    await federated.later(BundleUnavailableError("away"))
    assert federated.identity.stale() == {}
    await federated.later(bundle_document(FIRST.bundle()), FIRST_RETRY)


async def test_the_endpoint_is_judged_by_what_is_held_now(federated: Federated) -> None:
    """SPIFFE Federation, section 5.2.2.4: the latest bundle, own and foreign, also while there is no own identity."""
    await federated.later(bundle_document(SECOND.bundle(), sequence=2))
    federated.own.put(None)
    await federated.later(bundle_document(SECOND.bundle(), sequence=3))
    empty, first, second = federated.seen
    assert [bundle.trust_domain for bundle in empty] == ["acme.org"]
    assert first.get("partner.test") == FIRST.bundle()
    assert [(one.trust_domain, one.authorities) for one in second] == [("partner.test", SECOND.bundle().authorities)]


async def test_a_bootstrap_counts_until_the_first_answer() -> None:
    federated = Federated(held=bundle_document(FIRST.bundle(), sequence=1))
    assert federated.authorities() == FIRST.bundle().authorities
    federated.says = bundle_document(SECOND.bundle(), sequence=2)
    await federated.start()
    assert federated.authorities() == SECOND.bundle().authorities
    federated.identity.close()


async def test_the_endpoints_bundle_takes_the_place_of_one_that_comes_with_the_own_identity(federated) -> None:
    federated.own.put(OURS.snapshot("gateway", federated=[SECOND.bundle(), TestAuthority("other.test").bundle()]))
    bundles = federated.identity.current().bundles
    assert [bundle.trust_domain for bundle in bundles] == ["acme.org", "other.test", "partner.test"]
    assert federated.authorities() == FIRST.bundle().authorities


async def test_no_endpoint_speaks_for_the_own_trust_domain() -> None:
    """INV-11."""
    ours = Relation(
        Endpoint("acme.org", "https://acme.org/bundle", Profile.WEB),
        "",
        bundle_from_jwks("acme.org", bundle_document()),
    )
    source = FixedSource(OURS.snapshot("gateway"))
    identity = FederatedIdentity(source, [ours], ManualClock(), bytes)
    with pytest.raises(IdentityUnavailableError, match="own trust domain"):
        identity.current()


async def test_a_disk_that_fails_costs_the_next_start_only(federated: Federated, monkeypatch, caplog) -> None:
    def full(_: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(federated.kept, "keep", full)
    await federated.later(bundle_document(SECOND.bundle(), sequence=2))
    assert federated.authorities() == SECOND.bundle().authorities
    assert "Fetched bundles cannot be kept" in caplog.text
    await federated.later(bundle_document(FIRST.bundle(), sequence=3))
    assert federated.authorities() == FIRST.bundle().authorities


async def test_what_was_fetched_is_kept(federated: Federated) -> None:
    assert bundle_document(FIRST.bundle()).decode() in next(iter(federated.kept.kept())).decode().replace("\\", "")


async def test_when_it_is_closed_nobody_is_asked_and_there_is_no_identity(federated: Federated) -> None:
    federated.identity.close()
    federated.clock.advance(LATE)
    await asyncio.sleep(0)
    assert len(federated.seen) == 1
    with pytest.raises(IdentityUnavailableError):
        federated.identity.current()
