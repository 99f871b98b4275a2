"""Where callers come in: the listener for X.509-SVIDs, and, where it is configured, the one for bearer tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from stepgrant.spiffe.source import IdentitySource
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.identity.bearers import Bearers
from stepgrant_gateway.identity.credentials import ServerIdentity
from stepgrant_gateway.identity.peers import PeerVerifier
from stepgrant_gateway.rpc.agent import AgentService
from stepgrant_gateway.rpc.caller import Evidence
from stepgrant_gateway.rpc.dispatcher import DispatcherService
from stepgrant_gateway.rpc.interceptor import IdentityInterceptor
from stepgrant_gateway.rpc.operator import OperatorService
from stepgrant_gateway.rpc.presented import by_bearer, by_certificate
from stepgrant_gateway.rpc.quotas import Quotas
from stepgrant_gateway.rpc.server import Server, Transport
from stepgrant_gateway.rpc.verifier import VerifierService


@dataclass(frozen=True, slots=True)
class Services:
    """What is served: to who shows a certificate all of it, to who shows a token `agent` alone."""

    agent: AgentService
    verifier: VerifierService
    operator: OperatorService
    dispatcher: DispatcherService


@dataclass(frozen=True, slots=True)
class Judges:
    """Who says whom a certificate and whom a token stands for, and who hears of those that stand for nobody."""

    peers: PeerVerifier
    bearers: Bearers
    denied: Callable[[str, str], None]
    quotas: Quotas

    def verify(self, evidence: Evidence) -> Peer:
        """The peer that a connection or a token proves now; raises InvalidInputError if it proves nobody."""
        return self.bearers.verify(evidence) if isinstance(evidence, str) else self.peers.verify(evidence)


class Listeners:
    """All listeners of a gateway, as one."""

    def __init__(self, identity: IdentitySource, services: Services, judges: Judges, transport: Transport) -> None:
        self._certificates = ServerIdentity(identity)
        self._tokens = ServerIdentity(identity, client_certificates=False)
        whole = IdentityInterceptor(
            judges.verify, self._certificates.stale, judges.denied, judges.quotas, by_certificate
        )
        self._main = Server(whole, services.agent, transport, services.verifier, services.operator, services.dispatcher)
        self._servers: tuple[Server, ...] = (self._main,)
        self._services, self._judges, self._transport = services, judges, transport

    async def start(self, listen: Address, listen_bearer: Address | None) -> tuple[int, int | None]:
        """The ports that they listen on; None for the one that is off.

        Raises:
            ConfigError: nothing can listen there.
        """
        port = await self._main.start("gateway.listen", listen, self._certificates.credentials())
        if listen_bearer is None:
            return port, None
        judges = self._judges
        agents = IdentityInterceptor(judges.verify, self._tokens.stale, judges.denied, judges.quotas, by_bearer)
        bearer = Server(agents, self._services.agent, self._transport)
        self._servers = (self._main, bearer)
        return port, await bearer.start("gateway.listen_bearer", listen_bearer, self._tokens.credentials())

    def stale(self) -> str | None:
        """Why a listener's own identity or bundles cannot be relied on now, or None."""
        return self._certificates.stale() or self._tokens.stale()

    async def show(self, troubles: Collection[str]) -> None:
        """Says on each of each service whether it serves, now that there are these troubles."""
        for server in self._servers:
            await server.show(troubles)

    async def say_draining(self) -> None:
        """None is ready any more."""
        for server in self._servers:
            await server.say_draining()

    async def stop(self, grace: float) -> None:
        """No calls any more; calls that live get `grace` seconds to end."""
        for server in self._servers:
            await server.stop(grace)
