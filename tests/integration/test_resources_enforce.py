"""A real gateway, a protected gRPC and a protected HTTP resource, and the real client: a grant is good for its one call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import pytest
import uvicorn
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import stepgrant
from stepgrant.calls import GrpcCalls, HttpCalls, HttpRoute
from stepgrant.errors import Revoked
from stepgrant.outgoing.grpc import channel
from stepgrant.outgoing.http import HttpAuth
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2
from stepgrant.verify import GrantInterceptor, GrantMiddleware, Verifier, current_call, server_credentials
from tests.kit.running import ISSUER, Running, running_gateway

ORDERS = "spiffe://dev.stepgrant.test/resource/orders"
MAIL = "https://mail.dev.stepgrant.test"
PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}
GET, REFUND = "/orders.Orders/Get", "/orders.Orders/Refund"
GRPC_CALLS = GrpcCalls({GET: "orders.get", REFUND: "orders.refund"})
HTTP_CALLS = HttpCalls([HttpRoute("mail.read", "GET", "/mailboxes/{mailbox}")])


def _message() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="orders_test.proto", package="orders_test", syntax="proto3")
    order = file.message_type.add(name="Order")
    kind = descriptor_pb2.FieldDescriptorProto
    order.field.add(name="order_id", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    order.oneof_decl.add(name="_amount")
    amount = order.field.add(name="amount", number=2, type=kind.TYPE_DOUBLE, label=kind.LABEL_OPTIONAL, oneof_index=0)
    amount.proto3_optional = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name], pool)["orders_test.Order"]


Order = _message()
ORDER = Order(order_id="ord_00000042")


async def _handle(request: Any, context: grpc.aio.ServicerContext) -> Any:
    call = current_call()
    assert call.arguments["order_id"] == request.order_id
    return Order(order_id=f"{call.tool} {request.order_id}")


@contextlib.asynccontextmanager
async def orders_server(running: Running) -> AsyncIterator[tuple[str, Verifier]]:
    identity = running.identity("resource/orders")
    await asyncio.to_thread(identity.current)
    gateway = f"localhost:{running.gateway.port}"
    async with Verifier.connect(gateway=gateway, gateway_id=ISSUER, audience=ORDERS, identity=identity) as verifier:
        await verifier.ready()
        server = grpc.aio.server(interceptors=[GrantInterceptor(verifier, GRPC_CALLS)])
        handler = grpc.unary_unary_rpc_method_handler(_handle, Order.FromString, Order.SerializeToString)
        handlers = {"Get": handler, "Refund": handler, "Unlisted": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("orders.Orders", handlers),))
        port = server.add_secure_port("localhost:0", server_credentials(identity))
        await server.start()
        try:
            yield f"localhost:{port}", verifier
        finally:
            await server.stop(None)


async def call(opened: grpc.aio.Channel, method: str = GET, request: Any = ORDER, grant: str | None = None) -> str:
    multi = opened.unary_unary(
        method, request_serializer=Order.SerializeToString, response_deserializer=Order.FromString
    )
    metadata = () if grant is None else (("stepgrant-grant", grant),)
    return (await multi(request, metadata=metadata, timeout=10)).order_id


async def refused(*arguments: Any, **how: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(*arguments, **how)
    return dict(caught.value.trailing_metadata() or ()).get("stepgrant-refusal", caught.value.details())


@contextlib.asynccontextmanager
async def bare_channel(running: Running, path: str, target: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of that workload that carries what the test gives it."""
    snapshot = await asyncio.to_thread(running.identity(path).current)
    host, _, port = target.rpartition(":")
    server = parse_spiffe_id(ORDERS)
    pinned = await asyncio.to_thread(probe_server, host, int(port), server, snapshot, datetime.now(UTC))
    credentials, options = grpc_channel_credentials(snapshot, pinned)
    async with grpc.aio.secure_channel(target, credentials, options) as opened:
        yield opened


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


async def test_a_lock_ends_a_live_grant_at_the_resource():
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


@contextlib.asynccontextmanager
async def mail_server(running: Running) -> AsyncIterator[str]:
    identity = running.identity("resource/mail")
    await asyncio.to_thread(identity.current)
    gateway = f"localhost:{running.gateway.port}"
    async with Verifier.connect(gateway=gateway, gateway_id=ISSUER, audience=MAIL, identity=identity) as verifier:
        await verifier.ready()
        listening = socket.create_server(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{listening.getsockname()[1]}"

        async def app(scope: Any, receive: Any, send: Any) -> None:
            call = scope["stepgrant.call"]
            body = f"{call.tool} {call.arguments['mailbox']}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

        guarded = GrantMiddleware(app, verifier=verifier, calls=HTTP_CALLS, origin=origin)
        config = uvicorn.Config(guarded, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        running_server = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield origin
        finally:
            server.should_exit = True
            await running_server


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
