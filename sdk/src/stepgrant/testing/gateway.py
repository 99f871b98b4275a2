"""A gateway that answers what the test wrote, over the real protocol on loopback with real TLS."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.client import Client
from stepgrant.clock import Clock
from stepgrant.errors import MisuseError
from stepgrant.ids import ulid
from stepgrant.link import MAX_MESSAGE_BYTES, Address
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.testing.authority import Issued, ScriptedIdentity, ThrowAwayAuthority
from stepgrant.testing.lives import Lives
from stepgrant.testing.script import Script
from stepgrant.testing.signing import Signer
from stepgrant.testing.stream import ScriptedStream
from stepgrant.v1 import agent_pb2, agent_pb2_grpc

TRUST_DOMAIN: Final = "test.stepgrant.test"
GATEWAY_PATH: Final = "gateway"


class ScriptedGateway(Script, agent_pb2_grpc.AgentGatewayServicer):
    """A gateway for tests: `async with ScriptedGateway() as gateway`, then `gateway.client()`.

    What is not scripted is denied. Grants do not expire by themselves (see `expire`) and are signed by a key that nobody
    else trusts.
    """

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__()
        self.authority = ThrowAwayAuthority(TRUST_DOMAIN)
        self.gateway_id = SpiffeId(TRUST_DOMAIN, f"/{GATEWAY_PATH}")
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self._now = now
        self._instance_id = ulid(now(), os.urandom(10))
        self._lives = Lives()
        self._streams: set[ScriptedStream] = set()
        self._server: grpc.aio.Server | None = None
        self._address: Address | None = None

    async def __aenter__(self) -> Self:
        """Serves on a port of 127.0.0.1 that the system chooses."""
        await self.serve()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends every stream and the server."""
        await self.go_away()

    @property
    def address(self) -> Address:
        """Where it serves."""
        if self._address is None:
            raise MisuseError("the scripted gateway does not serve yet: enter it with `async with`")
        return self._address

    def client(self, path: str = "agent/test", *, clock: Clock | None = None) -> Client:
        """A client of this gateway, as the workload `spiffe://test.stepgrant.test/<path>`."""
        return Client(self.address, self.gateway_id, self.identity(path), owns_identity=True, clock=clock)

    def identity(self, path: str = "agent/test") -> ScriptedIdentity:
        """An identity of the same trust domain."""
        return ScriptedIdentity(self.authority.snapshot(path))

    async def serve(self, issued: Issued | None = None) -> None:
        """Serves, at the address that it had before if there is one, with this certificate or a new one."""
        own = issued or self.authority.issue(GATEWAY_PATH)
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
        agent_pb2_grpc.add_AgentGatewayServicer_to_server(self, server)
        credentials = grpc.ssl_server_credentials(
            [(own.key_pem, own.chain_pem)], root_certificates=self.authority.root_pem, require_client_auth=True
        )
        port = 0 if self._address is None else self._address.port
        self._address = Address("127.0.0.1", server.add_secure_port(f"127.0.0.1:{port}", credentials))
        await server.start()
        self._server = server

    async def go_away(self) -> None:
        """Is gone at once: every stream ends, and nothing answers any more, until `serve`."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def revoke(self, step_id: str, code: str = "locked", reason: str = "Locked by an operator.") -> None:
        """Ends a live step and its children, as a lock or a policy change would."""
        for stream in list(self._streams):
            await stream.end_step(step_id, "revoked", code, reason)

    async def expire(self, step_id: str) -> None:
        """Ends a live step and its children, as their time would."""
        for stream in list(self._streams):
            await stream.end_step(step_id, "expired", "expired", "The grant ran out.")

    async def close_tasks(self, code: str = "draining", reason: str = "The gateway stops.") -> None:
        """Closes every task that is open."""
        for stream in list(self._streams):
            await stream.close(code, reason)

    def cut(self) -> None:
        """Loses every stream, as a network that fails would. Tasks can be taken up again for a while (`lives.LINGER`)."""
        for stream in list(self._streams):
            stream.cut()

    async def push(self, message: agent_pb2.GatewayMessage) -> None:
        """Says this on every stream, whatever the protocol thinks of it."""
        for stream in list(self._streams):
            await stream.say(message)

    async def PerformTask(  # type: ignore[override]  # noqa: N802 - gRPC's name; its reader-writer form of a stream
        self,
        request_iterator: object,  # noqa: ARG002 - the reader-writer form reads from the context
        context: grpc.aio.ServicerContext[agent_pb2.AgentMessage, agent_pb2.GatewayMessage],
    ) -> None:
        """One stream of one agent."""
        leaf = x509.load_pem_x509_certificate(_auth(context, "x509_pem_cert"))
        signer = Signer(str(self.gateway_id), self._instance_id, self.signing_key, self._now)
        stream = ScriptedStream(
            self,
            self._lives,
            signer,
            context,
            workload=_auth(context, "peer_spiffe_id").decode(),
            leaf_der=leaf.public_bytes(Encoding.DER),
        )
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)


def _auth(context: Any, key: str) -> bytes:
    values = context.auth_context()[key]
    return bytes(values[0])
