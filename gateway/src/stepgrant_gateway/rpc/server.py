"""The gRPC server: services, the interceptor in front of them, and the bounds of the transport."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # the stubs know the threaded one only

from stepgrant.v1 import agent_pb2_grpc, dispatch_pb2_grpc, operator_pb2_grpc, verifier_pb2_grpc
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.rpc.agent import AgentService
from stepgrant_gateway.rpc.dispatcher import DispatcherService
from stepgrant_gateway.rpc.interceptor import IdentityInterceptor
from stepgrant_gateway.rpc.limits import (
    MAX_CONNECTIONS,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
    MAX_TASKS_PER_IDENTITY,
    MAX_WATCHES_PER_IDENTITY,
    SPARE_STREAMS,
)
from stepgrant_gateway.rpc.operator import OperatorService
from stepgrant_gateway.rpc.verifier import VerifierService


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """What one connection may take, and how long each thing may take on it. gRPC's own defaults are in brackets."""

    handshake: timedelta = timedelta(seconds=10)
    """From accepting to the end of TLS and HTTP/2's settings (2 min): who connects and says nothing costs a descriptor."""
    silence: timedelta = timedelta(seconds=10)
    """Without a byte, before the other side is asked for a sign of life (2 h)."""
    reply: timedelta = timedelta(seconds=5)
    """For that sign (20 s): a machine that vanished without a word is gone after `silence` and `reply`."""
    idle: timedelta = timedelta(minutes=5)
    """Without any call, before a connection is closed (never)."""
    age: timedelta = timedelta(hours=1)
    """Before a connection takes no new calls (never): it is judged by the certificate that it was made with."""
    grace: timedelta = timedelta(days=1)
    """For the calls of an old connection to end (for ever): longer than tasks take, but an end for who never reads."""
    streams: int = MAX_TASKS_PER_IDENTITY + MAX_WATCHES_PER_IDENTITY + SPARE_STREAMS
    """Calls at once (no end). Calls that are begun and reset count until they are gone, so that a flood of them is refused."""
    connections: int = MAX_CONNECTIONS
    """Of everybody together (no end), those that are being made included."""

    def carrying(self, tasks: int) -> Transport:
        """The same for workloads that may each have so many task streams open: one connection is enough for all of them."""
        return replace(self, streams=max(self.streams, tasks + MAX_WATCHES_PER_IDENTITY + SPARE_STREAMS))

    def options(self) -> list[tuple[str, int]]:
        """As gRPC takes them."""
        return [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.server_handshake_timeout_ms", _milliseconds(self.handshake)),
            ("grpc.max_connection_idle_ms", _milliseconds(self.idle)),
            ("grpc.max_connection_age_ms", _milliseconds(self.age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(self.grace)),
            ("grpc.keepalive_time_ms", _milliseconds(self.silence)),
            # The first is for bytes that TCP has not seen acknowledged. gRPC 1.85 never starts its own timer of that name,
            # so for who acknowledges and does not answer only the second counts (a minute, if it is not set).
            ("grpc.keepalive_timeout_ms", _milliseconds(self.reply)),
            ("grpc.http2.ping_timeout_ms", _milliseconds(self.reply)),
            ("grpc.keepalive_permit_without_calls", 1),
            # Whoever asks for signs of life more often than this is cut off.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            # Two gateways on one port would share its connections silently.
            ("grpc.so_reuseport", 0),
        ]


TRANSPORT: Final = Transport()

LASTING: Final = frozenset({"ledger", "clock", "signing_key"})
"""Troubles under which nothing is granted, while resources go on hearing of revocations, operators can lock and dispatchers withdraw."""

SERVICES: Final[Mapping[str, Collection[str]]] = {
    "": (),
    "stepgrant.v1.AgentGateway": (),
    "stepgrant.v1.Dispatcher": LASTING,
    "stepgrant.v1.GrantVerifier": LASTING,
    "stepgrant.v1.Operator": LASTING,
}
"""What grpc.health.v1 is asked about, and the troubles that each serves through; the empty name is the gateway as a whole."""


class Server:
    """One listener of the gateway. What grpc.health.v1 says of it is what `show` was told last.

    Without the other services it serves agents only: who comes there can neither redeem, nor lock, nor assign.
    """

    def __init__(
        self,
        interceptor: IdentityInterceptor,
        agent: AgentService,
        transport: Transport,
        verifier: VerifierService | None = None,
        operator: OperatorService | None = None,
        dispatcher: DispatcherService | None = None,
    ) -> None:
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(interceptor,), options=transport.options())
        agent_pb2_grpc.add_AgentGatewayServicer_to_server(agent, self._server)
        self._services = {"", "stepgrant.v1.AgentGateway"}
        if dispatcher is not None:
            dispatch_pb2_grpc.add_DispatcherServicer_to_server(dispatcher, self._server)
            self._services.add("stepgrant.v1.Dispatcher")
        if verifier is not None:
            verifier_pb2_grpc.add_GrantVerifierServicer_to_server(verifier, self._server)
            self._services.add("stepgrant.v1.GrantVerifier")
        if operator is not None:
            operator_pb2_grpc.add_OperatorServicer_to_server(operator, self._server)
            self._services.add("stepgrant.v1.Operator")
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, setting: str, address: Address, credentials: grpc.ServerCredentials) -> int:
        """Listens, and says NOT_SERVING until `show` says otherwise; returns the port (the system's choice for port 0).

        Raises:
            ConfigError: nothing can listen at `address`, which `setting` says.
        """
        await self.show(("starting",))
        try:
            port = self._server.add_secure_port(str(address), credentials)
        except RuntimeError as error:
            raise ConfigError(f"{setting}: nothing can listen at {address}; is the port taken?") from error
        await self._server.start()
        return port

    async def show(self, troubles: Collection[str]) -> None:
        """Says of each service whether it serves, now that there are these troubles (names of checks of health)."""
        for service in self._services:
            lasting = SERVICES[service]
            serves = all(trouble in lasting for trouble in troubles)
            answer = health_pb2.HealthCheckResponse
            await self._health.set(service, answer.SERVING if serves else answer.NOT_SERVING)

    async def say_draining(self) -> None:
        """Not ready any more, for load balancers and for who waits."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """No calls any more; calls that live get `grace` seconds to end."""
        await self._server.stop(grace)


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
