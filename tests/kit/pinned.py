"""A scripted gateway that shows another certificate from now on, as one does that rotates; connections that it has stay."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc

from stepgrant.link import Address
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.spiffe.source import IdentitySnapshot
from stepgrant.testing import ScriptedGateway
from stepgrant.testing.authority import ThrowAwayAuthority
from stepgrant.testing.gateway import GATEWAY_PATH, TRUST_DOMAIN
from stepgrant.v1 import agent_pb2_grpc


class TurningGateway(ScriptedGateway):
    """Shows a certificate of `retiring` until `turn`, then one of `authority`; agents of both are let in."""

    def __init__(self) -> None:
        super().__init__()
        self.retiring = ThrowAwayAuthority(TRUST_DOMAIN)
        self._shown = self.retiring.issue(GATEWAY_PATH)
        self.speaks, self.reached = asyncio.Event(), asyncio.Event()
        self.speaks.set()
        self.open("Refund")
        self.grant("orders.get")

    def turn(self) -> None:
        """New connections see the new certificate."""
        self._shown = self.authority.issue(GATEWAY_PATH)

    def with_both(self) -> IdentitySnapshot:
        """An agent's SVID of the new authority, while the bundle still has the old one."""
        return replace(self.authority.snapshot("agent/test"), bundles=self.bundles(self.authority, self.retiring))

    def with_new(self, snapshot: IdentitySnapshot) -> IdentitySnapshot:
        """The same SVID after the old authority was removed."""
        return replace(snapshot, bundles=self.bundles(self.authority))

    @staticmethod
    def bundles(*authorities: ThrowAwayAuthority) -> BundleSet:
        """The one bundle of the trust domain, with these."""
        roots = (bundle.authorities for one in authorities for bundle in one.bundles)
        return BundleSet((X509Bundle(TRUST_DOMAIN, tuple(der for some in roots for der in some)),))

    async def PerformTask(self, request_iterator, context):  # noqa: N802 - gRPC's name
        """Has its first word wait for `speaks`."""
        self.reached.set()
        await self.speaks.wait()
        await super().PerformTask(request_iterator, context)

    async def serve(self, issued: object = None) -> None:
        """Serves with a certificate that is looked up for each connection."""
        server = grpc.aio.server()
        agent_pb2_grpc.add_AgentGatewayServicer_to_server(self, server)
        credentials = grpc.dynamic_ssl_server_credentials(
            self._credentials(), self._credentials, require_client_authentication=True
        )
        self._address = Address("127.0.0.1", server.add_secure_port("127.0.0.1:0", credentials))
        await server.start()
        self._server = server

    def _credentials(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self._shown.key_pem, self._shown.chain_pem)], self.authority.root_pem + self.retiring.root_pem
        )
