"""What only the wiring can get wrong: who the gateway is, what is recorded, what happens by the clock, and the way down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stepgrant.grant import HEARTBEAT
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.app.auditing import verify_ledger
from stepgrant_gateway.config import parse_config
from stepgrant_gateway.core.errors import ConfigError, LedgerBrokenError
from stepgrant_gateway.identity.settings import IdentitySettings
from stepgrant_gateway.storage.sqlite import SqliteLedger, SqliteLedgerReader
from stepgrant_gateway.system import identity_source, system_entropy
from stepgrant_gateway.tokens.keys import KEY_LIFETIME
from stepgrant_gateway.wiring import Gateway, World
from tests.kit.chains import TASK, chain_of, granted, started
from tests.kit.clock import ManualClock
from tests.kit.running import ISSUER, SUPPORT_POLICY, running_gateway
from tests.kit.work import work

ORDERS = "spiffe://dev.stepgrant.test/resource/orders"


def config(folder: Path, **changes: str):
    values = {"issuer": ISSUER, "policy": str(SUPPORT_POLICY)} | changes
    return parse_config(
        f"""
[gateway]
issuer = "{values["issuer"]}"
listen = "127.0.0.1:0"
policy = "{values["policy"]}"
[identity]
source = "workload_api"
[ledger]
insecure_memory = true
[inputs]
discard = true
""".encode(),
        folder / "gateway.toml",
    )


def recorded(path: Path) -> list[dict]:
    reader = SqliteLedgerReader(path)
    bodies = [json.loads(record.body) for head in reader.heads() for record in reader.read(head.instance_id, 0, 10_000)]
    reader.close()
    return bodies


async def test_steps_that_a_killed_gateway_left_are_abandoned_on_record_once_inv_05(tmp_path):
    """INV-05: before the next one serves, and not again by the one after it."""
    path = tmp_path / "ledger.db"
    store = SqliteLedger(path)
    store.append(chain_of(started(), granted(grant=TASK, labels=[], deltas={})), [])
    store.close()
    for _ in range(2):
        async with running_gateway(ledger=path):
            ends = [body["data"] for body in recorded(path) if body["type"] == "step.ended"]
        assert [(end["grant"], end["state"], end["code"]) for end in ends] == [(TASK, "abandoned", "gateway_gone")]


async def test_a_start_begins_with_the_snapshot_that_the_last_stop_left(tmp_path):
    """What lies before it is not read again: a change there is `audit verify`'s to find, which reads all."""
    path = tmp_path / "ledger.db"
    store = SqliteLedger(path)
    store.append(chain_of(started(), *work(1200)), [])
    store.close()
    async with running_gateway(ledger=path):
        pass
    assert [body["type"] for body in recorded(path)][-2:] == ["ledger.snapshot", "gateway.stopped"]
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TRIGGER records_stay; UPDATE records SET body = CAST(body || ' ' AS BLOB) WHERE position = 3"
    )
    connection.close()

    async with running_gateway(ledger=path):
        pass

    with contextlib.closing(SqliteLedgerReader(path)) as reader, pytest.raises(LedgerBrokenError, match="record 3 "):
        verify_ledger(reader)


async def test_a_gateway_that_is_not_the_issuer_does_not_start(tmp_path):
    """INV-13: the issuer is what verifiers know; a gateway under another ID would mint what nobody accepts."""
    async with running_gateway() as running:
        world = World(running.clock, system_entropy, running.identity("agent/other"))
        with pytest.raises(ConfigError, match="the SVID of this gateway is"):
            async with Gateway.start(config(tmp_path), world):
                pytest.fail("it started")


def test_without_a_workload_api_nothing_starts():
    with pytest.raises(ConfigError, match="SPIFFE_ENDPOINT_SOCKET"):
        identity_source(IdentitySettings(source="workload_api"), {})


async def test_start_policy_keys_and_stop_are_on_record(tmp_path):
    async with running_gateway(ledger=tmp_path / "ledger.db"):
        pass

    assert [event["type"] for event in recorded(tmp_path / "ledger.db")] == [
        "gateway.started",
        "policy.activated",
        "key.activated",
        "bundle.changed",
        "gateway.stopped",
    ]


async def test_an_insecure_choice_is_on_record():
    """INV-13: insecure choices are recorded."""
    async with running_gateway() as running:
        stub = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))
        bodies = [json.loads(record.body) async for record in stub.TailLedger(operator_pb2.TailLedgerRequest())]

    assert {"choice": "ledger.insecure_memory"} in [
        body["data"] for body in bodies if body["type"] == "insecure.choice"
    ]


async def test_a_lock_outlives_the_gateway_that_it_was_set_at(tmp_path):
    path = tmp_path / "ledger.db"
    async with running_gateway(ledger=path) as running:
        stub = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))
        selector = types_pb2.Selector(tool="orders.*")
        locked = await stub.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="an incident"))

    async with running_gateway(ledger=path) as running:
        stub = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))
        locks = (await stub.ListLocks(operator_pb2.ListLocksRequest())).locks

    assert [lock.lock_id for lock in locks] == [locked.lock.lock_id]


async def test_heartbeats_come_each_second_and_a_new_key_before_the_old_one_ends(tmp_path):
    clock = ManualClock(datetime.now(UTC))
    async with running_gateway(clock=clock) as running:
        stub = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/orders"))
        watch = stub.Watch(verifier_pb2.WatchRequest(audiences=[ORDERS]))
        first = (await asyncio.wait_for(watch.read(), 5)).snapshot

        clock.advance(HEARTBEAT)
        beat = await asyncio.wait_for(watch.read(), 5)
        clock.advance(KEY_LIFETIME)
        while (event := await asyncio.wait_for(watch.read(), 5)).WhichOneof("event") != "key":
            assert event.WhichOneof("event") == "heartbeat"

    assert beat.heartbeat.at_unix_ms - first.heartbeat.at_unix_ms == 1000
    assert event.key.kid != first.keys[0].kid


async def test_inputs_of_days_past_are_destroyed_when_the_gateway_starts(tmp_path):
    """INV-14: decisions are reproducible while their inputs are kept, and not for longer."""
    path = tmp_path / "ledger.db"
    async with running_gateway(ledger=path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as ledger, ledger:
        ledger.execute("INSERT INTO data_keys VALUES ('old', '2000-01-01')")

    async with running_gateway(ledger=path):
        pass

    with contextlib.closing(sqlite3.connect(path)) as ledger:
        assert ledger.execute("SELECT count(*) FROM data_keys").fetchone() == (0,)
