"""The mTLS listener over real gRPC: fresh certificates for new connections, and staleness said aloud."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import grpc
import pytest

from stepgrant.spiffe.source import IdentitySnapshot
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.identity.credentials import ServerIdentity
from stepgrant_gateway.identity.peers import PeerVerifier
from tests.kit.ca import FixedSource, IssuedSvid, TestAuthority, look_alike, snapshot


class Listener:
    """A server behind `ServerIdentity` whose one method remembers what TLS said about the caller."""

    def __init__(self, source: FixedSource) -> None:
        self.identity = ServerIdentity(source)
        self.seen: list[Mapping[str, Iterable[bytes]]] = []
        self.port = 0

    async def answer(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.seen.append(dict(context.auth_context()))
        return request

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self.answer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
        self.port = server.add_secure_port("127.0.0.1:0", self.identity.credentials())
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    async def call(self, client: IssuedSvid | None, roots: bytes) -> bytes:
        credentials = grpc.ssl_channel_credentials(
            roots, *((client.key_pem, client.chain_pem) if client is not None else ())
        )
        options = [("grpc.ssl_target_name_override", "stepgrant"), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            answer: bytes = await channel.unary_unary("/test.Echo/Say")(b"hello", timeout=5)
            return answer


def gateway(authority: TestAuthority) -> IdentitySnapshot:
    return authority.snapshot("gateway", dns=["stepgrant"])


def peer_of(listener: Listener, source: FixedSource) -> Peer:
    return PeerVerifier(lambda: source.current().bundles, lambda: datetime.now(UTC)).verify(listener.seen[-1])


async def test_the_peer_of_a_real_connection_is_its_svid() -> None:
    """Pins what gRPC hands over: the leaf, and the chain that comes with it."""
    authority = TestAuthority(intermediate=True)
    source = FixedSource(gateway(authority))
    listener = Listener(source)
    async with listener.serving():
        assert await listener.call(authority.issue("agent/support"), authority.bundle().pem) == b"hello"
    assert str(peer_of(listener, source).spiffe_id) == "spiffe://acme.org/agent/support"


async def test_a_connection_without_a_client_certificate_is_not_made() -> None:
    """INV-11: no identity, no connection."""
    authority = TestAuthority()
    listener = Listener(FixedSource(gateway(authority)))
    async with listener.serving():
        with pytest.raises(grpc.aio.AioRpcError):
            await listener.call(None, authority.bundle().pem)
    assert not listener.seen


async def test_new_connections_are_held_to_the_new_bundle_after_a_rotation() -> None:
    old, new = TestAuthority(), TestAuthority()
    source = FixedSource(gateway(old))
    listener = Listener(source)
    async with listener.serving():
        await listener.call(old.issue("agent/support"), old.bundle().pem)
        source.put(snapshot(new.issue("gateway", dns=["stepgrant"]), new.bundle()))
        assert await listener.call(new.issue("agent/support"), new.bundle().pem) == b"hello"
        with pytest.raises(grpc.aio.AioRpcError):
            await listener.call(old.issue("agent/support"), new.bundle().pem)


async def test_a_federated_workload_connects_and_none_of_a_domain_that_is_not_known() -> None:
    ours, partner, stranger = (
        TestAuthority(),
        TestAuthority("partner.test", intermediate=True),
        TestAuthority("evil.org"),
    )
    source = FixedSource(ours.snapshot("gateway", dns=["stepgrant"], federated=[partner.bundle()]))
    listener = Listener(source)
    async with listener.serving():
        await listener.call(partner.issue("agent/support"), ours.bundle().pem)
        assert str(peer_of(listener, source).spiffe_id) == "spiffe://partner.test/agent/support"
        with pytest.raises(grpc.aio.AioRpcError):
            await listener.call(stranger.issue("agent/support"), ours.bundle().pem)
    assert len(listener.seen) == 1


@pytest.mark.parametrize("key_identifiers", [True, False])
async def test_a_partners_authority_that_looks_like_ours_keeps_nobody_out(key_identifiers: bool) -> None:
    """INV-11, and who is let in stays our matter: TLS tries one root of a name, and it must be the right one."""
    ours = TestAuthority()
    hostile = look_alike(ours, "a.test")
    listener = Listener(FixedSource(ours.snapshot("gateway", dns=["stepgrant"], federated=[hostile])))
    async with listener.serving():
        client = ours.issue("agent/support", key_identifiers=key_identifiers)
        assert await listener.call(client, ours.bundle().pem) == b"hello"


async def test_grpc_fails_open_without_an_identity_and_staleness_says_so() -> None:
    """INV-11: the listener would go on with its old certificate; `stale` is what the interceptor refuses by."""
    authority = TestAuthority()
    source = FixedSource(gateway(authority))
    listener = Listener(source)
    async with listener.serving():
        assert listener.identity.stale() is None
        source.put(None)
        assert await listener.call(authority.issue("agent/support"), authority.bundle().pem) == b"hello"
        assert "taken the identity away" in (listener.identity.stale() or "")
        source.put(gateway(authority))
        await listener.call(authority.issue("agent/support"), authority.bundle().pem)
        assert listener.identity.stale() is None
