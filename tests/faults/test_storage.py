"""Disks that fail and files that are not what they should be: refused or UNAVAILABLE in one clear line, and nothing lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepgrant.errors import DenialCode, Denied, GatewayUnavailableError, Revoked, TaskClosedError
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.storage.sqlite import SqliteLedger
from stepgrant_gateway.system import SystemClock, system_entropy
from tests.faults.disks import FailingDisk, HangingDisk, SmallDisk, small_disk
from tests.faults.ledger_checks import check_former_lives, read_ledger
from tests.faults.load import ORDERS
from tests.faults.serving import PATIENCE, Life, Site, site
from tests.kit.chains import chain_of, ended, granted, started

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}
GET = {"order_id": "ord_00000042"}
CHAIN = chain_of(started(), *(event for number in range(20) for event in (granted(number), ended(number))))

pytestmark = pytest.mark.slow


@pytest.fixture
async def at() -> AsyncIterator[Site]:
    async with site() as found:
        yield found


@pytest.fixture
def disk(at: Site) -> Iterator[SmallDisk]:
    with small_disk(at.folder / "disk") as found:
        at.ledger = found.folder / "ledger.db"
        yield found


def refusal(life: Life) -> str:
    """The one line that a gateway that did not start has ended with, on top of what it may have logged."""
    assert not life.ready
    lines = life.said()
    assert [line for line in lines if line.startswith('{"error"')] == lines[-1:], "\n".join(lines)
    assert not any("Traceback" in line for line in lines), "\n".join(lines)
    message: str = json.loads(lines[-1])["message"]
    return message


async def works_only_while_it_can_record(at: Site, life: Life, disk: SmallDisk | FailingDisk | HangingDisk) -> None:
    """INV-03: no record, no grant; a lock is in force at once, and on record as soon as there is one again."""
    client = await at.client()
    async with at.channel("operator/jo") as control, at.channel("resource/orders") as own:
        operator = operator_pb2_grpc.OperatorStub(control)
        resource = verifier_pb2_grpc.GrantVerifierStub(own)
        async with client.task("Refund", PARAMETERS) as task, task.step("orders.get", GET) as step:
            disk.fill()
            with pytest.raises(Denied) as denied:
                async with task.step("orders.search", {"query": "jo"}):
                    pytest.fail("granted without a record")
            assert denied.value.denial.code is DenialCode.UNRECORDED
            disk.fill()
            redemption = ulid(SystemClock().now(), system_entropy(ULID_RANDOM_BYTES))
            use = verifier_pb2.RedeemRequest(audience=ORDERS, grant_id=step.grant.grant_id, redemption_id=redemption)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await resource.Redeem(use, timeout=PATIENCE)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            disk.fill()
            selector = types_pb2.Selector(tool="mail.*")
            request = operator_pb2.SetLockRequest(selector=selector, reason="an incident")
            locked = await operator.SetLock(request, timeout=PATIENCE)
            assert not locked.durable
            disk.free()
            await _recorded(operator, locked.lock.lock_id)
            assert (await resource.Redeem(use, timeout=PATIENCE)).accepted
            async with task.step("orders.search", {"query": "jo"}):
                pass
    life.process.send_signal(signal.SIGTERM)
    assert await life.ended() == Exit.OK


async def _recorded(operator: Any, lock_id: str) -> None:
    """Returns when the lock is on record: the gateway tries by itself."""
    async with asyncio.timeout(PATIENCE):
        async for record in operator.TailLedger(operator_pb2.TailLedgerRequest(follow=True)):
            if lock_id.encode() in record.body:
                return


def hanging(milliseconds: int) -> tuple[str, ...]:
    """What to run instead of `stepgrant`: each sync takes so long."""
    return (sys.executable, "-m", "tests.faults.hanging", str(milliseconds))


def on_record(path: Path) -> list[EventType]:
    return [stored.event.type for stored in read_ledger(path)]


async def test_st_03_a_disk_that_fills_up_stops_grants_until_there_is_space_again(at, disk):
    """INV-03, with a real full file system (ENOSPC)."""
    life = await at.begin()
    await works_only_while_it_can_record(at, life, disk)
    assert on_record(at.ledger).count(EventType.STEP_GRANTED) == 2


async def test_st_04_a_disk_that_fails_stops_grants_until_it_works_again(at):
    """INV-03, with writes that fail (an I/O error)."""
    life = await at.begin()
    await works_only_while_it_can_record(at, life, FailingDisk(life.process.pid))
    assert on_record(at.ledger).count(EventType.STEP_GRANTED) == 2


async def test_st_04_a_disk_that_hangs_stops_grants_within_a_bound_and_nothing_else(at):
    """INV-03 and INV-04: what waits for a record is refused in time; a lock is in force; what hung is on record afterwards."""
    life = await at.begin(command=hanging(0))
    await works_only_while_it_can_record(at, life, HangingDisk(life.process.pid))
    assert on_record(at.ledger).count(EventType.STEP_GRANTED) >= 2


async def test_st_04_a_slow_disk_slows_grants_down_and_refuses_none(at):
    life = await at.begin(command=hanging(200))
    client = await at.client()
    async with client.task("Refund", PARAMETERS) as task:
        steps = (task.step("orders.search", {"query": str(number)}) for number in range(10))
        await asyncio.gather(*(use(step) for step in steps))
    life.process.send_signal(signal.SIGTERM)
    assert await life.ended() == Exit.OK
    assert on_record(at.ledger).count(EventType.STEP_GRANTED) == 10


async def use(step: Any) -> None:
    async with step:
        pass


async def test_st_04_a_gateway_stops_when_told_although_a_write_hangs(at):
    """What it could not record was not granted, and the next start ends what it had granted."""
    life = await at.begin(command=hanging(0))
    client = await at.client()
    with pytest.raises((Denied, GatewayUnavailableError, TaskClosedError, Revoked)):
        async with client.task("Refund", PARAMETERS) as task, task.step("orders.get", GET):
            HangingDisk(life.process.pid).fill()
            async with task.step("orders.search", {"query": "jo"}):
                pytest.fail("granted without a record")
    life.process.send_signal(signal.SIGTERM)
    assert await life.ended() == Exit.OK, "\n".join(life.said())

    after = await at.begin()
    assert after.ready, "\n".join(after.said())
    await after.stop()
    check_former_lives(read_ledger(at.ledger), after.instance_id)


async def test_st_03_a_gateway_does_not_start_on_a_full_disk_and_does_when_there_is_space(at, disk):
    """Neither with a ledger to be made, nor with one that is there; and nobody has to mend anything."""
    disk.fill()
    life = await at.begin()
    assert "full" in refusal(life)
    assert await life.ended() == Exit.UNAVAILABLE
    disk.free()

    stopped = await at.begin()
    stopped.process.send_signal(signal.SIGTERM)
    assert await stopped.ended() == Exit.OK
    disk.fill()
    life = await at.begin()
    assert "cannot be used now" in refusal(life)
    assert await life.ended() == Exit.UNAVAILABLE
    disk.free()
    life = await at.begin()
    assert life.ready
    await life.stop()
    assert on_record(at.ledger).count(EventType.GATEWAY_STARTED) == 2


async def test_a_folder_that_cannot_be_written_is_refused_and_works_when_it_can(at, disk):
    killed = await at.begin()
    await killed.stop()
    disk.freeze()
    life = await at.begin()
    assert "Read-only file system" in refusal(life)
    assert await life.ended() == Exit.UNAVAILABLE
    disk.thaw()
    life = await at.begin()
    assert life.ready
    await life.stop()


async def test_a_second_gateway_on_the_same_file_is_refused_and_the_first_goes_on(at):
    first = await at.begin()
    second = await at.begin()
    assert "the ledger of another running gateway" in refusal(second)
    assert await second.ended() == Exit.UNAVAILABLE
    async with (await at.client()).task("Refund", PARAMETERS) as task, task.step("orders.get", GET):
        pass
    await first.stop()
    assert on_record(at.ledger).count(EventType.STEP_GRANTED) == 1


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


def foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE photos (name TEXT)")
    connection.close()
    path.chmod(0o600)


def tampered(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TRIGGER records_stay; UPDATE records SET body = CAST(body || ' ' AS BLOB) WHERE sequence = 3"
    )
    connection.close()


@pytest.mark.parametrize(
    ("damage", "line", "status"),
    [
        (cut(0), "is empty: what it held is lost", Exit.UNAVAILABLE),
        (cut(20_000), "Restore it from a copy", Exit.UNAVAILABLE),
        (foreign, "another program's file", Exit.UNAVAILABLE),
        (tampered, "record 3 ", Exit.BROKEN),
    ],
    ids=["emptied", "truncated", "foreign", "tampered"],
)
async def test_st_04_nothing_is_served_from_a_file_that_does_not_hold(at, damage, line, status):
    store = SqliteLedger(at.ledger)
    store.append(CHAIN, [])
    store.close()
    damage(at.ledger)
    before = at.ledger.read_bytes()

    life = await at.begin()

    assert line in refusal(life)
    assert await life.ended() == status
    assert at.ledger.read_bytes() == before
