"""The gRPC server: services, the interceptor in front of them, and the bounds of the transport."""

from __future__ import annotations

from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # the stubs know the threaded one only

from stepgrant.v1 import agent_pb2_grpc, operator_pb2_grpc, verifier_pb2_grpc
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.rpc.agent import AgentService
from stepgrant_gateway.rpc.interceptor import IdentityInterceptor
from stepgrant_gateway.rpc.limits import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES, MAX_STREAMS_PER_CONNECTION
from stepgrant_gateway.rpc.operator import OperatorService
from stepgrant_gateway.rpc.verifier import VerifierService

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    # A connection is judged by the certificate it was made with, so it must be made anew now and then.
    ("grpc.max_connection_age_ms", 60 * 60 * 1000),
    # A machine that vanished without a word is noticed within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two gateways on one port would share its connections silently.
    ("grpc.so_reuseport", 0),
)

SERVICES: Final = ("", "stepgrant.v1.AgentGateway", "stepgrant.v1.GrantVerifier", "stepgrant.v1.Operator")
"""What grpc.health.v1 is asked about; the empty name is the gateway as a whole."""


class Server:
    """The gateway's listener. Not serving until `start`, not ready until then either (grpc.health.v1)."""

    def __init__(
        self,
        interceptor: IdentityInterceptor,
        agent: AgentService,
        verifier: VerifierService,
        operator: OperatorService,
    ) -> None:
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(interceptor,), options=OPTIONS)
        agent_pb2_grpc.add_AgentGatewayServicer_to_server(agent, self._server)
        verifier_pb2_grpc.add_GrantVerifierServicer_to_server(verifier, self._server)
        operator_pb2_grpc.add_OperatorServicer_to_server(operator, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listens and says SERVING; returns the port (the system's choice for port 0).

        Raises:
            ConfigError: nothing can listen at `address`.
        """
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"gateway.listen: nothing can listen at {address}; is the port taken?") from error
        await self._server.start()
        await self._say(health_pb2.HealthCheckResponse.SERVING)
        return port

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in SERVICES:
            await self._health.set(service, status)

    async def say_draining(self) -> None:
        """Not ready any more, for load balancers and for who waits."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """No calls any more; calls that live get `grace` seconds to end."""
        await self._server.stop(grace)
