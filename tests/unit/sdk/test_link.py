"""One link is good at a time; those before it close with their last stream."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from stepgrant.client import Client
from stepgrant.clock import LoopClock
from stepgrant.errors import GatewayUnavailableError, Revoked, TaskClosedError
from stepgrant.link import MOVE_WITHIN, Address, Links
from stepgrant.pauses import TRY_TO_TAKE_UP
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.testing.authority import ScriptedIdentity
from tests.kit.clock import ManualClock
from tests.kit.loop import interrupted, settled
from tests.kit.pinned import TurningGateway


@pytest.fixture
async def links(gateway):
    made = Links(gateway.address, gateway.gateway_id, gateway.identity(), ManualClock(datetime.now(UTC)))
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
    links._clock.set_wall(old.pinned.not_after + timedelta(seconds=1))
    probed = []
    links._make = lambda snapshot: probed.append(snapshot) or _made(old)
    await links.acquire()
    assert len(probed) == 1


async def test_a_link_of_an_identity_that_is_gone_closes_at_once(gateway, links):
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

    links = Links(gateway.address, gateway.gateway_id, Slow(), LoopClock())
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


@pytest.fixture
async def turning():
    async with TurningGateway() as gateway:
        yield gateway


@pytest.fixture
def identity(turning):
    return ScriptedIdentity(turning.with_both())


@asynccontextmanager
async def working(turning, identity, clock=None):
    """A task on a connection that is pinned to a certificate of the retiring authority, by an SVID of the new one."""
    client = Client(turning.address, turning.gateway_id, identity, clock=clock)
    async with client, client.task("Refund") as task:
        yield task


async def test_id_08_steps_leave_a_connection_whose_authority_is_removed_and_live_on(turning, identity):
    async with working(turning, identity) as task, task.step("orders.get") as step:
        old = task._lease._hold.session
        turning.turn()
        identity.become(turning.with_new(identity.current()))
        await turning.until(lambda: turning.resumed)
        await step.renew()
        assert step.live
        await settled(lambda: old.closed_as == "taken_over")
    assert (len(turning.opened), turning.renewed) == (1, [step.id])
    assert [(report.failed, report.late) for report in turning.reported] == [(False, False)]


async def test_id_08_of_a_gateway_that_is_not_proven_any_more_nothing_is_asked_and_what_does_not_leave_in_time_ends(
    turning, identity
):
    clock = ManualClock(datetime.now(UTC))
    async with working(turning, identity, clock) as task:
        with pytest.raises(Revoked, match="abandoned"):
            async with task.step("orders.get") as step:
                identity.become(turning.with_new(identity.current()))
                await settled(lambda: task._lease._pauses._over is not None)
                session, turns = task._lease._hold.session, iter(range(20))
                asked = session._number
                renewing, other = asyncio.create_task(step.renew()), asyncio.create_task(enter(task.step("orders.get")))
                clock.advance(MOVE_WITHIN - timedelta(milliseconds=1))
                await settled(lambda: next(turns, None) is None)
                assert (step.live, session.over, session._number) == (True, None, asked)
                clock.advance(timedelta(milliseconds=1))
                await interrupted()
        turning.turn()
        await settled(lambda: waited(clock, task) and other.done())
        await asyncio.wait([renewing])
    assert (len(turning.opened), len(turning.resumed), len(turning.declared)) == (1, 1, 2)


async def test_id_08_a_connection_that_a_removed_authority_vouched_for_is_cut_in_time(turning, identity):
    clock = ManualClock(datetime.now(UTC))
    links = Links(turning.address, turning.gateway_id, identity, clock)
    link, _ = await links.acquire()
    identity.become(turning.with_new(identity.current()))
    await settled(lambda: link.forsaken)
    clock.advance(MOVE_WITHIN - timedelta(milliseconds=1))
    assert links._all == [link]
    clock.advance(timedelta(milliseconds=1))
    assert links._all == []
    await links.close()


async def test_id_08_without_any_authority_of_its_trust_domain_a_connection_ends_at_once(turning, identity):
    clock = ManualClock(datetime.now(UTC))
    async with working(turning, identity, clock) as task:
        with pytest.raises(Revoked, match="abandoned"):
            async with task.step("orders.get"):
                none = BundleSet((X509Bundle(turning.gateway_id.trust_domain, ()),))
                identity.become(replace(identity.current(), bundles=none))
                await interrupted()


async def test_a_task_that_the_proven_gateway_does_not_know_is_over_at_once(turning, identity):
    clock = ManualClock(datetime.now(UTC))
    async with working(turning, identity, clock) as task:
        with pytest.raises(Revoked, match="open it again"):
            async with task.step("orders.get"):
                turning._lives._tasks.clear()
                turning.turn()
                identity.become(turning.with_new(identity.current()))
                await interrupted()
        assert not task.open


async def test_id_08_no_task_is_opened_at_a_gateway_that_stopped_to_be_proven_before_it_spoke(turning, identity):
    turning.speaks.clear()

    async def work():
        async with working(turning, identity):
            pass

    opening = asyncio.create_task(work())
    await asyncio.wait_for(turning.reached.wait(), 10)
    turning.turn()
    identity.become(turning.with_new(identity.current()))
    await asyncio.sleep(0)
    turning.speaks.set()
    await opening
    assert (len(turning.opened), turning.resumed) == (1, [])


async def test_id_08_a_link_that_was_made_while_its_authority_was_removed_is_made_again(turning, identity):
    links = Links(turning.address, turning.gateway_id, identity, LoopClock())
    make, made = links._make, []

    async def removed_meanwhile(snapshot):
        made.append(await make(snapshot))
        if len(made) == 1:
            turning.turn()
            identity._snapshot = turning.with_new(snapshot)
        return made[-1]

    links._make = removed_meanwhile
    link, fresh = await links.acquire()
    assert (link, fresh, links._all) == (made[1], True, [made[1]])
    await links.close()


async def enter(step):
    async with step:
        pass


def waited(clock, task):
    """True; if the task waits for its next try, that is due now."""
    pause = task._lease._pauses._over
    if pause is not None and not pause.done():
        clock.advance(TRY_TO_TAKE_UP)
    return True
