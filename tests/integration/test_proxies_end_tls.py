"""Agents behind an L7 proxy that ends TLS: it is known by an ID of its own, and the gateway behind it by its own again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest

from stepgrant.client import Client, connect
from stepgrant.errors import GatewayUnavailableError
from stepgrant.grant import from_payload
from stepgrant.link import Address
from stepgrant.outgoing.http import HttpAuth
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant_gateway.identity.credentials import ServerIdentity
from tests.kit.running import ISSUER, Running, running_gateway
from tests.kit.servers import HTTP_CALLS, MAIL, mail_server
from tests.kit.tokens import payload_of

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}
MINUTES = timedelta(minutes=5)
PROXY = "spiffe://dev.stepgrant.test/proxy/edge"
PERFORM = "/stepgrant.v1.AgentGateway/PerformTask"


@asynccontextmanager
async def proxied(running: Running) -> AsyncIterator[Address]:
    """A proxy with an SVID of its own: ends TLS, asks for no certificate, and passes messages and `authorization` on."""
    identity = running.identity("proxy/edge")
    snapshot = await asyncio.to_thread(identity.current)
    behind = running.bearer_address
    pinned = await asyncio.to_thread(
        probe_server, behind.host, behind.port, parse_spiffe_id(ISSUER), snapshot, running.clock.now()
    )
    credentials, options = grpc_channel_credentials(snapshot, pinned, show_certificate=False)
    async with grpc.aio.secure_channel(behind.target, credentials, options) as channel:

        async def relay(_: Any, context: Any) -> None:
            metadata = [(key, value) for key, value in context.invocation_metadata() if key == "authorization"]
            call = channel.stream_stream(PERFORM)(metadata=metadata)

            async def forth() -> None:
                while (message := await context.read()) is not grpc.aio.EOF:
                    await call.write(message)
                await call.done_writing()

            sending = asyncio.create_task(forth())
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    await context.write(message)
                context.set_code(await call.code())
                context.set_details(await call.details())
            finally:
                sending.cancel()
                call.cancel()

        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(relay)
        server.add_registered_method_handlers("stepgrant.v1.AgentGateway", {"PerformTask": handler})
        listener = ServerIdentity(identity, client_certificates=False)
        port = server.add_secure_port("localhost:0", listener.credentials())
        await server.start()
        try:
            yield Address("localhost", port)
        finally:
            await server.stop(None)


@asynccontextmanager
async def through(running: Running, proxy: Address, proxy_id: str | None) -> AsyncIterator[Client]:
    identity = running.token_identity("agent/support")
    await asyncio.to_thread(identity.current)
    async with connect(proxy.target, ISSUER, identity, proxy_id=proxy_id) as client:
        yield client


async def test_an_agent_works_through_a_proxy_that_ends_tls_and_its_grants_are_bound_to_its_own_key() -> None:
    async with (
        running_gateway(jwt_ttl=MINUTES) as running,
        mail_server(running) as origin,
        proxied(running) as proxy,
        through(running, proxy, PROXY) as client,
    ):
        auth = HttpAuth(MAIL, origin, HTTP_CALLS, insecure_http=True)
        async with client.task("Refund", PARAMETERS) as task, httpx.AsyncClient(base_url=origin, auth=auth) as web:
            async with task.step("mail.read", {"mailbox": "support"}) as step:
                assert (await web.get("/mailboxes/support")).text == "mail.read support"
                assert from_payload(payload_of(step.grant.token)).confirmation == step.holder.instance_key.jkt


async def test_who_answers_in_the_place_of_the_gateway_must_be_named() -> None:
    """ID-11: a proxy that nobody named is not talked to, nor is the gateway where a proxy was named."""
    async with running_gateway(jwt_ttl=MINUTES) as running, proxied(running) as proxy:
        for address, named in ((proxy, None), (running.bearer_address, PROXY)):
            async with through(running, address, named) as client:
                with pytest.raises(GatewayUnavailableError):
                    async with client.task("Refund", PARAMETERS):
                        pass
