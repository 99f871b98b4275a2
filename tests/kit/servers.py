"""Protected resources on loopback: orders over gRPC, mail over HTTP, each with the real verifier of a running gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import uvicorn
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from stepgrant.calls import GrpcCalls, HttpCalls, HttpRoute
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.verify import GrantInterceptor, GrantMiddleware, Verifier, current_call, server_credentials
from tests.kit.running import ISSUER, Running

ORDERS = "spiffe://dev.stepgrant.test/resource/orders"
MAIL = "https://mail.dev.stepgrant.test"
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


async def handle(request: Any, context: grpc.aio.ServicerContext) -> Any:
    call = current_call()
    assert call.arguments["order_id"] == request.order_id
    return Order(order_id=f"{call.tool} {request.order_id}")


@contextlib.asynccontextmanager
async def verifying(running: Running, path: str, audience: str) -> AsyncIterator[Verifier]:
    """The verifier of that resource, ready."""
    identity = running.identity(path)
    await asyncio.to_thread(identity.current)
    gateway = f"localhost:{running.gateway.port}"
    async with Verifier.connect(gateway=gateway, gateway_id=ISSUER, audience=audience, identity=identity) as verifier:
        await verifier.ready()
        yield verifier


@contextlib.asynccontextmanager
async def orders_server(running: Running) -> AsyncIterator[tuple[str, Verifier]]:
    """Address and verifier of the orders' server."""
    async with verifying(running, "resource/orders", ORDERS) as verifier:
        server = grpc.aio.server(interceptors=[GrantInterceptor(verifier, GRPC_CALLS)])
        handler = grpc.unary_unary_rpc_method_handler(handle, Order.FromString, Order.SerializeToString)
        handlers = {"Get": handler, "Refund": handler, "Unlisted": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("orders.Orders", handlers),))
        port = server.add_secure_port("localhost:0", server_credentials(running.identity("resource/orders")))
        await server.start()
        try:
            yield f"localhost:{port}", verifier
        finally:
            await server.stop(None)


@contextlib.asynccontextmanager
async def mail_server(running: Running) -> AsyncIterator[str]:
    """Origin of the mail server."""
    async with verifying(running, "resource/mail", MAIL) as verifier, serving_mail(verifier) as origin:
        yield origin


@contextlib.asynccontextmanager
async def serving_mail(verifier: Verifier) -> AsyncIterator[str]:
    """Origin of a mail server that takes what `verifier` verified."""
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
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield origin
    finally:
        server.should_exit = True
        await serving


async def call(opened: grpc.aio.Channel, method: str = GET, request: Any = ORDER, grant: str | None = None) -> str:
    """One call of the orders' server, with that grant or with what the channel carries."""
    multi = opened.unary_unary(
        method, request_serializer=Order.SerializeToString, response_deserializer=Order.FromString
    )
    metadata = () if grant is None else (("stepgrant-grant", grant),)
    return str((await multi(request, metadata=metadata, timeout=10)).order_id)


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
