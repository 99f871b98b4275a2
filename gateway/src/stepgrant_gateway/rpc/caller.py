"""Who calls: set by the interceptor once per call, read by the servicers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeAlias

from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.rpc.status import UnauthenticatedError

TlsEvidence: TypeAlias = Mapping[str, Iterable[bytes]]
"""What TLS knows of the connection: `auth_context()` of gRPC."""
Evidence: TypeAlias = TlsEvidence | str
"""What a peer is verified by, now and again later: the connection, or the token that came with the call."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified peer, and the evidence to verify it by again."""

    peer: Peer
    evidence: Evidence

    @property
    def id(self) -> str:
        """The SPIFFE ID as text."""
        return str(self.peer.spiffe_id)


_CALLER: Final[ContextVar[Caller]] = ContextVar("stepgrant_caller")


def set_caller(caller: Caller) -> None:
    """Says who the call at hand comes from; for the interceptor only."""
    _CALLER.set(caller)


def current_caller() -> Caller:
    """The verified peer of the call at hand.

    Raises:
        UnauthenticatedError: no interceptor has verified one.
    """
    caller = _CALLER.get(None)
    if caller is None:
        raise UnauthenticatedError("nobody has verified the peer of this call")
    return caller
