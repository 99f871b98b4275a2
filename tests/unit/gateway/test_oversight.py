"""Oversight: each cause that keeps a gateway from its work is switched on and off, and health follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.grant import LEEWAY
from stepgrant_gateway.app.recording import BOUND, GATHERING
from stepgrant_gateway.app.retention import Retention
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.identity.endpoints import Endpoint, Profile
from stepgrant_gateway.identity.federation import FederatedIdentity
from stepgrant_gateway.identity.refreshing import DEFAULT, STALE_AFTER
from stepgrant_gateway.identity.relations import Relation
from stepgrant_gateway.oversight import Oversight, Watched
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.storage.memory import MemoryLedger
from stepgrant_gateway.storage.space import LITTLE, DiskSpace
from stepgrant_gateway.tokens.keys import KEY_LIFETIME, KEY_OVERLAP
from stepgrant_gateway.web.metrics import Level, Metrics
from tests.kit.ca import FixedSource
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import ORDERS, Heart, heart

PARTNER = Relation(Endpoint("partner.test", "https://partner.test/bundle", Profile.WEB), "origin")


class Overseen:
    """A heart under oversight; `shown` is what gRPC health was told."""

    def __init__(self, built: Heart) -> None:
        self.heart = built
        self.stale: str | None = None
        self.free = 5 * LITTLE
        self.shown: list[frozenset[str]] = []
        self.watched = Watched(
            state=built.state,
            recorder=built.journal,
            feed=built.feed,
            keys=built.keys,
            retention=Retention(MemoryLedger(), built.clock, timedelta(days=1)),
            live=LiveCalls(built.clock, lambda evidence: built.peer()),
            identity=FederatedIdentity(FixedSource(None), [PARTNER], built.clock, built.entropy),
            stale=lambda: self.stale,
            space=DiskSpace(Path("ledger.db"), lambda folder: self.free),
        )
        self.oversight = Oversight(self.watched, built.clock, Metrics(), self.show)

    async def show(self, troubles: frozenset[str]) -> None:
        self.shown.append(troubles)

    async def troubles(self) -> set[str]:
        """What health says after a look; gRPC health was told the same."""
        await self.oversight.begin()
        assert self.shown[-1] == set(self.oversight.health.latest.troubles)
        return set(self.shown[-1])


@asynccontextmanager
async def overseen(store: FaultyStore | None = None) -> AsyncIterator[Overseen]:
    async with heart(store or FaultyStore()) as built:
        yield Overseen(built)


async def test_a_gateway_that_can_do_its_work_is_ready():
    async with overseen() as seen:
        assert await seen.troubles() == set()


async def test_a_ledger_that_fails_is_a_trouble_until_it_records_again():
    store = FaultyStore()
    async with overseen(store) as seen:
        store.refuse = True
        receipt = seen.heart.journal.record(stopped(seen))
        with pytest.raises(UnrecordedError):
            await seen.heart.while_time_passes(receipt.durable())
        seen.heart.journal.record_end(stopped(seen))
        seen.heart.clock.advance(GATHERING)
        await turns(lambda: seen.heart.journal.trouble is not None)
        assert await seen.troubles() == {"ledger"}

        store.refuse = False
        await seen.heart.while_time_passes(seen.heart.journal.record(stopped(seen)).durable())
        assert await seen.troubles() == set()


async def test_a_ledger_that_hangs_is_a_trouble_once_it_is_past_its_bound():
    store = FaultyStore()
    async with overseen(store) as seen:
        store.block()
        receipt = seen.heart.journal.record_end(stopped(seen))
        seen.heart.clock.advance(GATHERING)
        assert await asyncio.to_thread(store.entered.wait, 10)
        assert await seen.troubles() == set()
        seen.heart.clock.advance(BOUND + timedelta(milliseconds=1))
        assert await seen.troubles() == {"ledger"}
        assert seen.watched.levels(seen.heart.clock)[Level.LEDGER_WAITING_EVENTS] == 1
        assert seen.watched.levels(seen.heart.clock)[Level.LEDGER_OLDEST_WAITING_SECONDS] > 2

        store.free.set()
        await turns(receipt.done)
        assert await seen.troubles() == set()


async def test_a_clock_behind_the_ledger_is_a_trouble_until_it_has_caught_up():
    async with overseen() as seen:
        await seen.heart.open()
        now = seen.heart.clock.now()
        seen.heart.clock.set_wall(now - timedelta(hours=1))
        assert await seen.troubles() == {"clock"}
        assert seen.watched.levels(seen.heart.clock)[Level.CLOCK_BEHIND_SECONDS] == 3600

        seen.heart.clock.set_wall(now - LEEWAY)
        assert await seen.troubles() == set()


async def test_a_partners_bundle_that_is_stale_is_seen_and_keeps_no_gateway_from_its_work():
    """Else whoever runs a partner's bundle endpoint could stop this gateway."""
    async with overseen() as seen:
        assert seen.watched.levels(seen.heart.clock)[Level.FEDERATED_BUNDLES_STALE] == 0
        seen.heart.clock.advance(DEFAULT * STALE_AFTER + timedelta(seconds=1))
        assert seen.watched.levels(seen.heart.clock)[Level.FEDERATED_BUNDLES_STALE] == 1
        assert await seen.troubles() == set()


async def test_an_identity_that_is_stale_is_a_trouble_until_it_is_fresh():
    async with overseen() as seen:
        seen.stale = "the SVID has expired"
        assert await seen.troubles() == {"identity"}
        seen.stale = None
        assert await seen.troubles() == set()


async def test_a_signing_key_that_was_not_replaced_in_time_is_a_trouble_until_it_is():
    async with overseen() as seen:
        seen.heart.clock.advance(KEY_LIFETIME + KEY_OVERLAP)
        assert await seen.troubles() == {"signing_key"}
        seen.heart.keys.rotate(seen.heart.feed.publish)
        assert await seen.troubles() == set()


async def test_draining_is_said_before_anything_ends_and_stays():
    async with overseen() as seen:
        await seen.troubles()
        await seen.oversight.drain()
        assert seen.shown[-1] == {"draining"}
        assert await seen.troubles() == {"draining"}


async def test_levels_are_those_of_the_gateway():
    async with overseen() as seen:
        lease = await seen.heart.open()
        await seen.heart.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        subscription = seen.heart.feed.subscribe(ORDERS, [ORDERS])
        seen.heart.clock.advance(timedelta(seconds=3))

        levels = seen.watched.levels(seen.heart.clock)

        assert (levels[Level.LIVE_TASKS], levels[Level.LIVE_GRANTS], levels[Level.OPEN_STREAMS]) == (1, 1, 0)
        assert (levels[Level.FEED_SUBSCRIBERS], levels[Level.FEED_AGE_SECONDS]) == (1, 3)
        assert (levels[Level.SVID_EXPIRY_TIMESTAMP_SECONDS], levels[Level.RETENTION_AGE_SECONDS]) == (0, 3)
        subscription.close()


@pytest.mark.parametrize(("late", "lag"), [(timedelta(seconds=1), "0.0"), (timedelta(seconds=1.25), "0.25")])
async def test_the_lag_of_the_loop_is_how_late_a_look_comes(late, lag):
    async with overseen() as seen:
        seen.oversight.look()
        seen.heart.clock.advance(late)
        seen.oversight.look()

        assert f"stepgrant_event_loop_lag_seconds {lag}\n" in seen.oversight._metrics.page().decode()


def stopped(seen: Overseen) -> Event:
    return Event(EventType.GATEWAY_STOPPED, seen.heart.clock.now(), {})


async def turns(until: Callable[[], bool]) -> None:
    """Lets the loop turn until something has happened there that wakes nobody."""
    async with asyncio.timeout(10):
        while not until():  # noqa: ASYNC110 - nobody is woken
            await asyncio.sleep(0)


async def test_ds_07_a_disk_that_is_nearly_full_is_an_alarm_and_a_figure_while_grants_go_on(caplog) -> None:
    async with overseen() as seen:
        assert await seen.troubles() == set()
        seen.free = LITTLE - 1
        assert await seen.troubles() == set()
        assert [record.event for record in caplog.records if hasattr(record, "event")][-1] == "disk_low"
        assert seen.watched.levels(seen.heart.clock)[Level.LEDGER_DISK_FREE_BYTES] == LITTLE - 1
