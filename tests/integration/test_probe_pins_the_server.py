"""The SDK authenticates a server by SPIFFE ID, over real TLS: INV-11, and "an impostor with the right DNS name: refused"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from stepgrant.errors import GatewayUnavailableError, InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import PinnedServer, grpc_channel_credentials, probe_server, recheck_server
from stepgrant.spiffe.source import IdentitySnapshot
from tests.kit.ca import LATE, IssuedSvid, TestAuthority

GATEWAY = parse_spiffe_id("spiffe://acme.org/gateway")
NOW = datetime.now(UTC)


@asynccontextmanager
async def echo(svid: IssuedSvid, authority: TestAuthority, port: int = 0) -> AsyncIterator[int]:
    """A gRPC server that shows `svid` and asks for a client certificate of `authority`."""

    async def answer(request: bytes, context: object) -> bytes:
        return request

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
    credentials = grpc.ssl_server_credentials(
        [(svid.key_pem, svid.chain_pem)], authority.bundle().pem, require_client_auth=True
    )
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


async def probe(port: int, me: IdentitySnapshot, patience: timedelta = timedelta(seconds=5)) -> PinnedServer:
    return await asyncio.to_thread(probe_server, "127.0.0.1", port, GATEWAY, me, NOW, patience)


async def say(port: int, me: IdentitySnapshot, pinned: PinnedServer) -> bytes:
    credentials, options = grpc_channel_credentials(me, pinned)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        answer: bytes = await channel.unary_unary("/test.Echo/Say")(b"hello", timeout=5)
        return answer


async def test_a_server_that_proves_its_spiffe_id_is_pinned_and_can_be_called() -> None:
    authority = TestAuthority(intermediate=True)
    me = authority.snapshot("agent/support")
    async with echo(authority.issue("gateway", dns=["stepgrant"]), authority) as port:
        pinned = await probe(port, me)
        assert (pinned.spiffe_id, pinned.server_name, pinned.not_after) == (GATEWAY, "stepgrant", LATE)
        assert len(pinned.svids[0].intermediates_der) == 1
        assert await say(port, me, pinned) == b"hello"


async def test_a_common_name_serves_when_there_is_no_dns_name() -> None:
    authority = TestAuthority()
    me = authority.snapshot("agent/support")
    async with echo(authority.issue("gateway", common_name="stepgrant"), authority) as port:
        assert await say(port, me, await probe(port, me)) == b"hello"


async def test_a_server_without_any_name_is_refused_with_what_to_do() -> None:
    authority = TestAuthority()
    async with echo(authority.issue("gateway"), authority) as port:
        with pytest.raises(GatewayUnavailableError, match=r"share no DNS name.*-dns"):
            await probe(port, authority.snapshot("agent/support"))


def another_workload(authority: TestAuthority) -> IssuedSvid:
    return authority.issue("agent/mallory", dns=["stepgrant"])


def foreign_with_our_id(authority: TestAuthority) -> IssuedSvid:
    return TestAuthority("evil.org").issue(str(GATEWAY), dns=["stepgrant"])


def without_spiffe_id(authority: TestAuthority) -> IssuedSvid:
    return authority.issue("gateway", uris=[], dns=["stepgrant"])


def ca_certificate(authority: TestAuthority) -> IssuedSvid:
    return authority.issue("gateway", ca=True, dns=["stepgrant"])


@pytest.mark.parametrize("impostor", [another_workload, foreign_with_our_id, without_spiffe_id, ca_certificate])
async def test_an_impostor_gateway_with_the_right_dns_name_is_refused(
    impostor: Callable[[TestAuthority], IssuedSvid],
) -> None:
    """INV-11: the probe refuses whoever is not the expected ID, whatever DNS name the CA gave it."""
    authority = TestAuthority()
    async with echo(impostor(authority), authority) as port:
        with pytest.raises(GatewayUnavailableError, match=r"did not prove to be spiffe://acme\.org/gateway"):
            await probe(port, authority.snapshot("agent/support"))


async def test_an_impostor_that_takes_the_address_after_the_probe_is_refused_by_the_channel() -> None:
    """INV-11: the channel trusts the verified leaf alone, not the CA that also signed the impostor."""
    authority = TestAuthority()
    me = authority.snapshot("agent/support")
    async with echo(authority.issue("gateway", dns=["stepgrant"]), authority) as port:
        pinned = await probe(port, me)
    async with echo(another_workload(authority), authority, port):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await say(port, me, pinned)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_each_resolved_address_is_probed_and_those_that_verify_are_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = TestAuthority()
    me = authority.snapshot("agent/support")
    async with AsyncExitStack() as stack:
        servers = [authority.issue("gateway", dns=[f"gw-{i}", "stepgrant"]) for i in range(2)]
        ports = [await stack.enter_async_context(echo(one, authority)) for one in servers]
        ports.append(await stack.enter_async_context(echo(another_workload(authority), authority)))
        places = [(2, 1, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: places)
        pinned = await probe(1, me)
        monkeypatch.undo()
        assert {svid.leaf_der for svid in pinned.svids} == {one.leaf_der for one in servers}
        assert pinned.server_name == "stepgrant"
        assert [await say(port, me, pinned) for port in ports[:2]] == [b"hello", b"hello"]


async def test_a_server_that_does_not_answer_is_unavailable_within_the_timeout() -> None:
    authority = TestAuthority()
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(GatewayUnavailableError, match="timed out"):
            await probe(port, authority.snapshot("agent/support"), timedelta(milliseconds=50))


async def test_a_pinned_server_no_longer_verifies_when_its_authority_leaves_the_bundle() -> None:
    authority, next_authority = TestAuthority(), TestAuthority()
    me = authority.snapshot("agent/support")
    async with echo(authority.issue("gateway", dns=["stepgrant"]), authority) as port:
        pinned = await probe(port, me)
    recheck_server(pinned, me.bundles, NOW)
    with pytest.raises(InvalidSvidError):
        recheck_server(pinned, BundleSet((next_authority.bundle(),)), NOW)
