"""A real gateway, a protected gRPC and a protected HTTP resource, and the real client: a grant is good for its one call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx
import pytest

import stepgrant
from stepgrant.errors import Revoked
from stepgrant.outgoing.grpc import channel
from stepgrant.outgoing.http import HttpAuth
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2
from stepgrant.verify import Verifier
from tests.kit.running import running_gateway
from tests.kit.servers import (
    GRPC_CALLS,
    HTTP_CALLS,
    MAIL,
    ORDERS,
    REFUND,
    Order,
    bare_channel,
    call,
    mail_server,
    orders_server,
)

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}


async def refused(*arguments: Any, **how: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(*arguments, **how)
    return dict(caught.value.trailing_metadata() or ()).get("stepgrant-refusal", caught.value.details())


async def test_a_grant_is_good_for_its_call_its_holder_its_use_and_its_step_inv_08():
    """INV-08, from end to end."""
    async with running_gateway() as running, orders_server(running) as (target, _):
        client = await running.client()
        async with (
            client.task("Refund", PARAMETERS) as task,
            bare_channel(running, "agent/support", target) as own,
            bare_channel(running, "agent/other", target) as others,
        ):
            async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
                grant = step.grant.token
                assert await refused(own) == "grant_missing"
                assert await refused(own, "/orders.Orders/Unlisted", grant=grant) == "unregistered_call"
                assert await refused(own, request=Order(order_id="ord_00000043"), grant=grant) == "target"
                assert await refused(own, request=Order(order_id="ord_00000042", amount=1), grant=grant) == "arguments"
                assert await refused(own, REFUND, grant=grant) == "tool"
                assert await refused(others, grant=grant) == "holder"
                assert await call(own, grant=grant) == "orders.get ord_00000042"
                assert await refused(own, grant=grant) == "used_up"
            assert await refused(own, grant=grant) == "revoked"


async def test_calls_on_the_clients_channel_are_declared_carried_and_reported():
    async with running_gateway() as running, orders_server(running) as (target, _):
        async with (
            await running.client(),
            stepgrant.task("Refund", **PARAMETERS),
            channel(ORDERS, target, calls=GRPC_CALLS) as opened,
        ):
            assert await call(opened) == "orders.get ord_00000042"
            refund = Order(order_id="ord_00000042", amount=40)
            assert await call(opened, REFUND, refund) == "orders.refund ord_00000042"


async def test_rv_01_a_lock_ends_a_live_grant_at_the_resource():
    async with running_gateway() as running, orders_server(running) as (target, _):
        client = await running.client()
        operator = operator_pb2_grpc.OperatorStub(await running.channel("operator/jo"))
        async with (
            client.task("Refund", PARAMETERS) as task,
            bare_channel(running, "agent/support", target) as own,
        ):
            with pytest.raises(Revoked):
                async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
                    grant = step.grant.token
                    locking = asyncio.create_task(_lock(operator))
                    await asyncio.wait_for(asyncio.Event().wait(), 10)
            await locking
            assert await refused(own, grant=grant) in {"revoked", "locked"}


async def _lock(operator: Any) -> None:
    selector = types_pb2.Selector(tool="orders.*")
    await operator.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="incident 7"))


async def test_when_the_gateway_is_gone_nothing_is_accepted_inv_11():
    """INV-11: gateway away."""
    async with running_gateway() as running:
        async with orders_server(running) as (target, verifier):
            client = await running.client()
            async with client.task("Refund", PARAMETERS) as task, bare_channel(running, "agent/support", target) as own:
                async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
                    lost = asyncio.create_task(_until_lost(verifier))
                    verifier.watcher._publisher._host = "localhost.invalid"
                    verifier.watcher.resync()
                    await asyncio.wait_for(lost, 10)
                    assert await refused(own, grant=step.grant.token) == "feed_stale"


async def _until_lost(verifier: Verifier) -> None:
    while verifier.healthy:  # noqa: ASYNC110 - the loss of trust has no event, and nobody needs one
        await asyncio.sleep(0)


async def test_over_http_the_grant_is_bound_to_the_instance_key_inv_08():
    """INV-08: holder by DPoP, from end to end."""
    async with running_gateway() as running, mail_server(running) as origin:
        client = await running.client()
        auth = HttpAuth(MAIL, origin, HTTP_CALLS, insecure_http=True)
        async with (
            client.task("Refund", PARAMETERS) as task,
            httpx.AsyncClient(base_url=origin) as plain,
            httpx.AsyncClient(base_url=origin, auth=auth) as web,
        ):
            assert (await plain.get("/mailboxes/support")).json()["error"] == "grant_missing"
            async with task.step("mail.read", {"mailbox": "support"}) as step:
                response = await web.get("/mailboxes/support")
                assert (response.status_code, response.text) == (200, "mail.read support")
                stolen = {"stepgrant-grant": step.grant.token}
                assert (await plain.get("/mailboxes/support", headers=stolen)).json()["error"] == "holder"
                assert (await web.get("/mailboxes/sales")).json()["error"] in {"target", "arguments"}


async def test_renewals_are_not_noticed_by_calls_that_go_on_meanwhile():
    """Each renewal kills the grant before it, also under a call that is on its way; whoever calls gets answers only."""
    async with running_gateway() as running, mail_server(running) as origin:
        client = await running.client()
        auth = HttpAuth(MAIL, origin, HTTP_CALLS, insecure_http=True)
        async with client.task("Refund", PARAMETERS) as task, httpx.AsyncClient(base_url=origin, auth=auth) as web:
            async with task.step("mail.read", {"mailbox": "support"}) as step:
                for _ in range(15):
                    renewing = asyncio.create_task(step.renew())
                    response = await web.get("/mailboxes/support")
                    assert (response.status_code, response.text) == (200, "mail.read support")
                    await renewing
