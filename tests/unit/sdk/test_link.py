"""One link is good at a time; those before it close with their last stream."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from stepgrant.errors import GatewayUnavailableError, TaskClosedError
from stepgrant.link import Address, Links
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


async def test_a_link_that_is_being_made_as_its_client_closes_is_closed_too(gateway):
    asked, go_on = threading.Event(), threading.Event()
    identity = gateway.identity()

    class Slow:
        subscribe = identity.subscribe

        def current(self):
            asked.set()
            go_on.wait(5)
            return identity.current()

    links = Links(gateway.address, gateway.gateway_id, Slow(), lambda: datetime.now(UTC))
    acquiring = asyncio.create_task(links.acquire())
    await asyncio.to_thread(asked.wait, 5)
    await links.close()
    go_on.set()
    with pytest.raises(TaskClosedError, match="client is closed"):
        await acquiring
    assert links._all == []


async def test_inv_11_who_waits_for_a_gateway_that_proves_nothing_does_not_wait_for_each_other(gateway, links):
    probes = []

    async def hang_up(_, writer):
        probes.append(writer)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    links._address = Address(*server.sockets[0].getsockname())
    async with server:
        failures = await asyncio.gather(*(links.acquire() for _ in range(12)), return_exceptions=True)
    assert [type(failure) for failure in failures] == [GatewayUnavailableError] * 12
    assert len(probes) <= 2
    links._address = gateway.address
    await links.acquire()


async def _made(link):
    return link
