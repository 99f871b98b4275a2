"""TR-02 and TR-09: a whole gateway, and everything that is no connection of an identity, or no call that is served."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc
import pytest

from stepgrant.spiffe.source import IdentitySnapshot
from tests.faults.http2 import WITHIN, Frame, http2, tls_of
from tests.kit.ca import TestAuthority
from tests.kit.running import Running, running_gateway
from tests.unit.gateway.rpc.test_interceptor import METHODS, status_of

BESIDE = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/grpc.admin.v1.Admin/Dump",
    "/stepgrant.v1.AgentGateway/Nothing",
    "/",
    "",
)
Tamper = Callable[[ssl.SSLContext], object]


@pytest.fixture(scope="module")
def gateway():
    """One gateway for all of it, and the loop that it runs on."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        running = runner.run(stack.enter_async_context(running_gateway()))
        yield runner, running
        runner.run(stack.aclose())


def old(version: ssl.TLSVersion) -> Tamper:
    def tamper(context: ssl.SSLContext) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("DEFAULT@SECLEVEL=0")

    return tamper


def weak(ciphers: str) -> Tamper:
    def tamper(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")

    return tamper


async def heard_by(running: Running, context: ssl.SSLContext | None) -> int:
    """Frames that the gateway says on a connection which it closes then."""
    try:
        async with asyncio.timeout(WITHIN), http2(running.gateway.port, context) as connection:
            await connection.over()
            return connection.heard.total()
    except TimeoutError:
        raise  # Which is an OSError, and here means that the connection was taken and stays.
    except (OSError, ssl.SSLError):
        return 0


async def own(running: Running) -> IdentitySnapshot:
    return await asyncio.to_thread(running.identity("agent/support").current)


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(old(ssl.TLSVersion.TLSv1), id="TLS 1.0"),
        pytest.param(old(ssl.TLSVersion.TLSv1_1), id="TLS 1.1"),
        pytest.param(weak("ECDHE-ECDSA-AES128-SHA"), id="CBC and SHA-1"),
        pytest.param(weak("AES128-SHA:AES128-GCM-SHA256"), id="no forward secrecy"),
        pytest.param(weak("ECDHE-ECDSA-NULL-SHA"), id="no encryption"),
        pytest.param(weak("AECDH-AES128-SHA:ADH-AES128-SHA"), id="no server certificate"),
        pytest.param(lambda context: context.set_alpn_protocols(["http/1.1"]), id="another protocol"),
    ],
)
def test_tr_09_what_is_weaker_than_it_must_be_is_no_connection(gateway, tamper):
    runner, running = gateway

    async def attempt() -> int:
        context = tls_of(await own(running))
        tamper(context)
        return await heard_by(running, context)

    assert runner.run(attempt()) == 0


@pytest.mark.parametrize("who", ["nobody", "a stranger", "in the clear"])
def test_tr_09_who_shows_no_certificate_of_the_trust_domain_hears_nothing(gateway, who):
    runner, running = gateway
    stranger = TestAuthority("dev.stepgrant.test").snapshot("agent/support")
    context = {"nobody": tls_of(None), "a stranger": tls_of(stranger), "in the clear": None}[who]

    assert runner.run(heard_by(running, context)) == 0


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tr_09_tls_1_3_is_spoken_unless_the_client_knows_1_2_only(gateway, newest):
    runner, running = gateway

    async def attempt() -> str:
        context = tls_of(await own(running))
        context.maximum_version = newest
        async with http2(running.gateway.port, context) as connection:
            await connection.until("heard")
            assert connection.heard[Frame.SETTINGS]
            return connection.writer.get_extra_info("ssl_object").version()

    assert runner.run(attempt()) == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[newest.name]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_tr_02_bearer_metadata_in_place_of_the_certificates_identity_is_refused_by_the_whole_gateway(gateway, method):
    runner, running = gateway

    async def attempt() -> grpc.StatusCode:
        channel = await running.channel("agent/other")
        code, _ = await status_of(channel, method, metadata=(("authorization", "Bearer x"),))
        return code

    assert runner.run(attempt()) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("path", BESIDE)
def test_tr_02_nothing_is_served_beside_the_protocol_and_health(gateway, path):
    runner, running = gateway

    async def attempt() -> grpc.StatusCode:
        channel = await running.channel("operator/jo")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(path)(b"", timeout=WITHIN)
        return error.value.code()

    assert runner.run(attempt()) is grpc.StatusCode.UNIMPLEMENTED
