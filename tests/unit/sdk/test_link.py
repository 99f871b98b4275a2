"""One link is good at a time; those before it close with their last stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stepgrant.link import Links
from tests.kit.loop import settled


@pytest.fixture
async def links(gateway):
    now = [datetime.now(UTC)]
    made = Links(gateway.address, gateway.gateway_id, gateway.identity(), lambda: now[0])
    made.now = now
    yield made
    await made.close()


async def test_streams_share_a_link_while_it_is_good(links):
    first, fresh = await links.acquire()
    again, fresh_again = await links.acquire()
    assert (first is again, fresh, fresh_again) == (True, True, False)
    assert first.streams == 2


async def test_a_dropped_link_is_replaced_and_closes_with_its_last_stream(links):
    old, _ = await links.acquire()
    links.drop(old)
    new, fresh = await links.acquire()
    assert new is not old
    assert fresh
    assert links._all == [old, new]
    links.release(old)
    assert links._all == [new]


async def test_a_gateway_whose_certificate_ran_out_is_probed_again(links):
    old, _ = await links.acquire()
    links.release(old)
    links.now[0] = old.pinned.not_after + timedelta(seconds=1)
    probed = []
    links._make = lambda snapshot: probed.append(snapshot) or _made(old)
    await links.acquire()
    assert len(probed) == 1


async def test_a_link_whose_gateway_does_not_verify_any_more_closes_at_once(gateway, links):
    link, _ = await links.acquire()
    links._identity.become(None)
    await settled(lambda: link.retired)
    assert links._all == []


async def _made(link):
    return link
