"""Where callers come in: what each listener serves, to whom, and what both say together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant.spiffe.bundles import BundleSet
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.identity.bearers import Bearers, JwtSvidBearers
from stepgrant_gateway.identity.peers import PeerVerifier
from stepgrant_gateway.listeners import Judges, Listeners
from stepgrant_gateway.rpc.server import TRANSPORT
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import START
from tests.kit.face import Face
from tests.kit.jwt import JwtAuthority

LOOPBACK = Address("127.0.0.1", 0)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GATEWAY = "spiffe://acme.org/gateway"


class Scene:
    """Listeners over an identity that the test feeds, with authorities of both kinds."""

    def __init__(self) -> None:
        self.authority, self.jwt = TestAuthority(), JwtAuthority()
        self.source = FixedSource(self.authority.snapshot("gateway", dns=["stepgrant"]))
        self.face = Face()
        bundles = BundleSet((self.authority.bundle(),), (self.jwt.bundle(),))
        self.judges = Judges(
            PeerVerifier(lambda: bundles, lambda: START),
            Bearers([JwtSvidBearers(GATEWAY, lambda: bundles, lambda: START)]),
            lambda method, reason: None,
            self.face.quotas,
        )
        self.listeners = Listeners(self.source, self.face.services, self.judges, TRANSPORT)

    @asynccontextmanager
    async def serving(self, bearer: Address | None = LOOPBACK) -> AsyncIterator[tuple[int, int | None]]:
        ports = await self.listeners.start(LOOPBACK, bearer)
        try:
            yield ports
        finally:
            await self.listeners.stop(0)

    @asynccontextmanager
    async def channel(self, port: int | None, *, certificate: bool = False) -> AsyncIterator[grpc.aio.Channel]:
        svid = self.authority.issue("agent/support")
        shown = (svid.key_pem, svid.chain_pem) if certificate else ()
        credentials = grpc.ssl_channel_credentials(self.authority.bundle().pem, *shown)
        options = [("grpc.ssl_target_name_override", "stepgrant"), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
            yield channel


async def health(channel: grpc.aio.Channel, service: str) -> object:
    try:
        request = health_pb2.HealthCheckRequest(service=f"stepgrant.v1.{service}")
        return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)).status
    except grpc.aio.AioRpcError as error:
        return error.code()


@pytest.fixture
async def scene() -> Scene:
    return Scene()  # On the loop: a server of gRPC belongs to the one that it is made on.


async def test_the_second_listener_is_off_unless_it_is_configured(scene: Scene) -> None:
    async with scene.serving(None) as (port, bearer):
        assert port
        assert bearer is None


async def test_a_port_that_is_taken_is_named_by_its_setting(scene: Scene) -> None:
    async with scene.serving() as (_, bearer):
        assert bearer is not None
        other = Scene()
        with pytest.raises(ConfigError, match=r"gateway.listen_bearer: nothing can listen"):
            async with other.serving(Address("127.0.0.1", bearer)):
                pass
        await other.listeners.stop(0)


async def test_both_say_whether_they_serve_and_each_of_what_it_has(scene: Scene) -> None:
    async with (
        scene.serving() as (port, bearer),
        scene.channel(port, certificate=True) as by_certificate,
        scene.channel(bearer) as by_token,
    ):
        for troubles, said in (((), SERVING), (("identity",), NOT_SERVING)):
            await scene.listeners.show(troubles)
            for channel in (by_certificate, by_token):
                assert await health(channel, "AgentGateway") == said
            assert await health(by_certificate, "Operator") == said
            assert await health(by_token, "Operator") is grpc.StatusCode.NOT_FOUND
        await scene.listeners.show(())
        await scene.listeners.say_draining()
        for channel in (by_certificate, by_token):
            assert await health(channel, "AgentGateway") == NOT_SERVING


async def test_each_listener_takes_its_own_kind_of_proof_and_no_other(scene: Scene) -> None:
    """INV-11: one identity per connection, or per call."""
    token = scene.jwt.issue("agent/support", [GATEWAY], START)
    named = (("authorization", f"Bearer {token}"),)
    perform = "/stepgrant.v1.AgentGateway/PerformTask"
    async with (
        scene.serving() as (port, bearer),
        scene.channel(port, certificate=True) as main,
        scene.channel(bearer, certificate=True) as agents,
    ):
        for channel, metadata in ((main, named), (agents, ())):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.stream_stream(perform)(metadata=metadata, timeout=10).read()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for channel, metadata in ((main, ()), (agents, named)):
            call = channel.stream_stream(perform)(metadata=metadata, timeout=10)
            assert await call.read()
            call.cancel()


async def test_without_an_identity_neither_judges_anybody(scene: Scene) -> None:
    async with scene.serving():
        assert scene.listeners.stale() is None
        scene.source.put(None)
        assert "taken the identity away" in str(scene.listeners.stale())
