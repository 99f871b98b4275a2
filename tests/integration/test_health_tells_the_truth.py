"""A whole gateway, and what it says of itself: by gRPC health, by HTTP, and in its metrics."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant.errors import Denied
from stepgrant.grant import HEARTBEAT
from stepgrant.v1 import verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.system import SystemClock
from tests.kit.clock import ManualClock
from tests.kit.running import Running, running_gateway

METRICS = '[metrics]\naddress = "127.0.0.1:0"\n'
ORDERS = "spiffe://dev.stepgrant.test/resource/orders"
PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@x.org"}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WAIT = 10


def fetched(running: Running, path: str) -> tuple[int, str]:
    """Status and body of a page; blocking."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{running.gateway.oversight.http_port}{path}", timeout=WAIT
        ) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def health(stub: health_pb2_grpc.HealthStub) -> list[int]:
    """What gRPC health says of the gateway as a whole, of agents' service, of resources', of operators', of dispatchers'."""
    named = ("AgentGateway", "GrantVerifier", "Operator", "Dispatcher")
    services = ("", *(f"stepgrant.v1.{name}" for name in named))
    requests = [health_pb2.HealthCheckRequest(service=service) for service in services]
    return [(await stub.Check(request, timeout=WAIT)).status for request in requests]


async def test_ds_08_a_gateway_that_cannot_grant_is_not_ready_while_resources_still_hear_of_revocations():
    clock = ManualClock(SystemClock().now())
    async with running_gateway(clock=clock, settings=METRICS) as running:
        client = await running.client()
        stub = health_pb2_grpc.HealthStub(await running.channel("agent/other"))
        async with client.task("Refund", PARAMETERS):
            assert await asyncio.to_thread(fetched, running, "/readyz") == (200, '{"ready": true, "troubles": {}}\n')
            assert await health(stub) == [SERVING] * 5

            noon = clock.now()
            clock.set_wall(noon - timedelta(minutes=10))
            clock.advance(HEARTBEAT)
            status, body = await asyncio.to_thread(fetched, running, "/readyz")
            assert (status, list(json.loads(body)["troubles"])) == (503, ["clock"])
            assert await health(stub) == [NOT_SERVING, NOT_SERVING, SERVING, SERVING, SERVING]

            clock.set_wall(noon)
            clock.advance(HEARTBEAT)
            assert (await asyncio.to_thread(fetched, running, "/readyz"))[0] == 200
            assert await health(stub) == [SERVING] * 5


async def test_ds_08_health_answers_while_every_worker_is_busy():
    """Neither starved worker threads nor a loop that is held up keep the listener from answering."""
    free = threading.Event()
    async with running_gateway(settings=METRICS) as running:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as busy, ThreadPoolExecutor(1) as apart:
            loop.set_default_executor(busy)
            try:
                for _ in range(100):
                    busy.submit(free.wait, WAIT)
                starved = await loop.run_in_executor(apart, fetched, running, "/readyz")
                asked = apart.submit(fetched, running, "/healthz")
                # Here the loop itself stands still until the listener has answered.
                held_up = asked.result(WAIT)
            finally:
                free.set()
                loop.set_default_executor(ThreadPoolExecutor())

    assert (starved[0], held_up[0]) == (200, 200)


async def test_metrics_tell_what_went_on():
    async with running_gateway(settings=METRICS) as running:
        client = await running.client()
        watch = verifier_pb2_grpc.GrantVerifierStub(await running.channel("resource/orders")).Watch(
            verifier_pb2.WatchRequest(audiences=[ORDERS])
        )
        await asyncio.wait_for(watch.read(), WAIT)
        async with client.task("Refund", PARAMETERS) as task:
            async with task.step("orders.get", {"order_id": "ord_00000042"}):
                pass
            with pytest.raises(Denied):
                async with task.step("orders.refund", {"order_id": "ord_00000043", "amount": 4}):
                    pytest.fail("the body ran")
        while (await asyncio.wait_for(watch.read(), WAIT)).WhichOneof("event") != "revoked":
            pass
        # Two heartbeats later everything has been looked at again.
        for _ in range(2):
            while (await asyncio.wait_for(watch.read(), WAIT)).WhichOneof("event") != "heartbeat":
                pass
        status, text = await asyncio.to_thread(fetched, running, "/metrics")
        policy = running.gateway.application.state.policy.digest

    assert status == 200
    for line in (
        'stepgrant_decisions_total{boundary="open",code="",outcome="granted"} 1.0',
        'stepgrant_decisions_total{boundary="declare",code="",outcome="granted"} 1.0',
        'stepgrant_decisions_total{boundary="declare",code="no_permit",outcome="denied"} 1.0',
        'stepgrant_grants_ended_total{code="completed"} 1.0',
        "stepgrant_revoke_to_feed_seconds_count 1.0",
        "stepgrant_feed_subscribers 1.0",
        f'stepgrant_policy_info{{digest="{policy}"}} 1.0',
        'stepgrant_check_failing{check="ledger"} 0.0',
    ):
        assert f"\n{line}\n" in text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    now = SystemClock().now().timestamp()
    assert float(values["stepgrant_svid_expiry_timestamp_seconds"]) > now
    assert float(values["stepgrant_bundle_expiry_timestamp_seconds"]) > now
    assert float(values["stepgrant_ledger_append_seconds_count"]) > 0
    assert float(values["stepgrant_grant_held_seconds_total"]) >= 0


async def test_without_an_address_there_is_no_listener():
    async with running_gateway() as running:
        assert running.gateway.oversight.http_port == 0
