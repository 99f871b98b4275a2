"""In front of every RPC: nobody gets past whose identity is not verified here and now (INV-11)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from stepgrant.errors import InvalidInputError, ProtocolError
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.rpc.caller import Caller, Evidence, set_caller
from stepgrant_gateway.rpc.limits import MAX_IDENTITIES
from stepgrant_gateway.rpc.presented import Authorization, Presented, by_certificate
from stepgrant_gateway.rpc.quotas import Quotas
from stepgrant_gateway.rpc.status import CallLostError, UnauthenticatedError, abort

HEALTH_SERVICE: Final = "/grpc.health.v1.Health/"
"""The one service that needs no more than the TLS handshake: it says whether the gateway is up, and nothing else."""

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]]


class IdentityInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Verifies the peer of each call, and hands it on as `current_caller()`.

    `presented` is what a peer is known by on this listener: its certificate, or a bearer token.
    `verify` raises an InvalidInputError for a peer that is not verified; `stale` says why the gateway's own credentials
    are too old to judge anybody by, or None. `denied` hears who was turned away, for the ledger. `quotas` bounds what each
    identity may ask, before its request is looked at.
    """

    def __init__(
        self,
        verify: Callable[[Evidence], Peer],
        stale: Callable[[], str | None],
        denied: Callable[[str, str], None],
        quotas: Quotas,
        presented: Presented = by_certificate,
    ) -> None:
        self._verify = verify
        self._stale = stale
        self._denied = denied
        self._quotas = quotas
        self._presented = presented
        self._evidence: dict[tuple[object, ...], Evidence] = {}

    async def intercept_service(  # type: ignore[override]  # the stubs forget that None means "no such method"
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """The handler behind a check of its caller; None for a method that does not exist."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if method.startswith(HEALTH_SERVICE):
            return handler  # type: ignore[no-any-return]  # handlers are tuples of gRPC's own, untyped here
        metadata = handler_call_details.invocation_metadata or ()
        authorization = tuple(value for key, value in metadata if str(key).lower() == "authorization")
        return self._guarded(handler, method, authorization)

    def _guarded(self, handler: Any, method: str, authorization: Authorization) -> _Handler:
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                break
        decode = partial(_decode, handler.request_deserializer)
        if not inspect.iscoroutinefunction(behaviour):
            raise TypeError(f"{method} is not served by a coroutine, so nothing could guard it")

        async def guarded(request: Any, context: _Context) -> Any:
            with ExitStack() as admission:
                try:
                    caller = self._admit(method, context, authorization)
                    admission.enter_context(self._quotas.admitted(method, caller.id))
                    set_caller(caller)
                    if not handler.request_streaming:
                        request = decode(request)
                except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody gets past
                    await abort(context, error)
                return await behaviour(request, context)

        # One request comes as bytes, since gRPC would read it before anybody has looked who it is from.
        reader = decode if handler.request_streaming else None
        return handler._replace(request_deserializer=reader, **{kind: guarded})  # type: ignore[no-any-return]  # as above

    def _admit(self, method: str, context: _Context, authorization: Authorization) -> Caller:
        """Who calls: by the one thing that names anybody on this listener."""
        try:
            evidence = self._presented(context, authorization)
        except InvalidInputError as error:
            raise self._refusal(method, str(error)) from error
        reason = self._stale()
        if reason is not None:
            raise CallLostError("identity_unavailable", f"the gateway cannot judge identities now: {reason}")
        try:
            peer = self._verify(evidence)
        except InvalidInputError as error:
            raise self._refusal(method, str(error)) from error
        # Only now: whoever is turned away leaves nothing here, and what is verified has a bound.
        return Caller(peer, self._one_copy(evidence))

    def _one_copy(self, evidence: Evidence) -> Evidence:
        """The same evidence, shared by all calls that it comes with: gRPC makes 4 KiB of it anew for each stream."""
        key: tuple[object, ...] = (
            (evidence,) if isinstance(evidence, str) else tuple((name, *values) for name, values in evidence.items())
        )
        if len(self._evidence) >= MAX_IDENTITIES:
            self._evidence.clear()
        return self._evidence.setdefault(key, evidence)

    def _refusal(self, method: str, reason: str) -> UnauthenticatedError:
        self._denied(method, reason)
        return UnauthenticatedError(reason)


def _decode(read: Callable[[bytes], Any], message: bytes) -> Any:
    try:
        return read(message)
    except DecodeError as error:
        raise ProtocolError("the message is not of the type that this method takes") from error
