"""A gRPC server interceptor: no handler runs unless a live grant covers the very call (design 4)."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Final, NoReturn, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from stepgrant.calls import GrpcCalls
from stepgrant.dpop import grpc_htu
from stepgrant.errors import GrantRefusedError, MisuseError, RefusalCode
from stepgrant.grant import DPOP_HEADER, GRANT_METADATA_KEY, REFUSAL_METADATA_KEY, Binding
from stepgrant.verify._status import ANSWERS, details
from stepgrant.verify.current import serving
from stepgrant.verify.resource import Verifier
from stepgrant.verify.verifier import DpopHolder, Holder, VerifiedCall

HEALTH_METHODS: Final = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class GrantInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Refuses every method that `calls` does not register, but for those of `open_methods`, which anybody may call.

    Registered methods take one message; they answer with one or with a stream. `authority` (`host:port`, as callers
    dial it) is needed where the audience's binding is `key`. With `attest` the outcome of each call is told to the gateway.
    """

    def __init__(
        self,
        verifier: Verifier,
        calls: GrpcCalls,
        *,
        open_methods: Collection[str] = HEALTH_METHODS,
        authority: str | None = None,
        attest: bool = False,
    ) -> None:
        both = sorted(method for method in open_methods if method in calls)
        if both:
            raise MisuseError(f"{both[0]} is registered as protected and as open; choose one")
        self._verifier = verifier
        self._calls = calls
        self._open = frozenset(open_methods)
        self._authority = authority
        self._attest = attest

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The guarded handler of a method, or one that refuses."""
        method = _text(handler_call_details.method)
        if method in self._open:
            return await continuation(handler_call_details)
        try:
            self._calls.tool(method)
        except GrantRefusedError as refused:
            return _refusing(refused)
        handler = cast("Any", await continuation(handler_call_details))
        if handler is None:
            return cast("_Handler", None)
        if handler.request_streaming:
            return _refusing(_unregistered("methods that take a stream of messages are not protected by this version"))
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._single(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _single(self, method: str, behaviour: Callable[[Any, _Context], Any]) -> Callable[[Any, _Context], Any]:
        if not inspect.iscoroutinefunction(behaviour):
            raise MisuseError(f"the handler of {method} is not `async def`")

        async def guarded(request: Message, context: _Context) -> Any:
            verified = await self._verify(method, request, context)
            with serving(verified):
                try:
                    response = await behaviour(request, context)
                except BaseException:
                    await self._outcome(verified, completed=False)
                    raise
            await self._outcome(verified, completed=_succeeded(context))
            return response

        return guarded

    def _streaming(self, method: str, behaviour: Callable[[Any, _Context], Any]) -> Callable[[Any, _Context], Any]:
        if not inspect.isasyncgenfunction(behaviour):
            raise MisuseError(f"the handler of {method} is not an async generator")

        async def guarded(request: Message, context: _Context) -> AsyncIterator[Any]:
            verified = await self._verify(method, request, context)
            try:
                with serving(verified):
                    async for response in behaviour(request, context):
                        yield response
            except BaseException:
                await self._outcome(verified, completed=False)
                raise
            await self._outcome(verified, completed=_succeeded(context))

        return guarded

    async def _verify(self, method: str, request: Message, context: _Context) -> VerifiedCall:
        # The message that is verified is the message that the handler gets: parsed once, by gRPC, and held by nobody else.
        try:
            token = _single_value(context, GRANT_METADATA_KEY)
            if token is None:
                raise GrantRefusedError(
                    RefusalCode.GRANT_MISSING,
                    f"the call carries no `{GRANT_METADATA_KEY}`.",
                    "Declare a step for it and use its grant.",
                )
            return await self._verifier.verify(token, self._calls.read(method, request), self._holder(method, context))
        except GrantRefusedError as refused:
            await _refuse(context, refused)

    def _holder(self, method: str, context: _Context) -> Holder:
        if self._verifier.binding is not Binding.KEY:
            return self._verifier.peers.holder(context.auth_context())
        proof = _single_value(context, DPOP_HEADER)
        if proof is None or self._authority is None:
            raise GrantRefusedError(
                RefusalCode.HOLDER,
                "the call carries no DPoP proof, or this server was not told its own authority.",
                "Make the call with the instance key of the task.",
            )
        return DpopHolder(proof, "POST", grpc_htu(self._authority, method))

    async def _outcome(self, verified: VerifiedCall, *, completed: bool) -> None:
        if self._attest:
            await self._verifier.attest(verified, completed=completed)


def _succeeded(context: _Context) -> bool:
    return context.code() in {None, 0, grpc.StatusCode.OK}


async def _refuse(context: _Context, refused: GrantRefusedError) -> NoReturn:
    refusal = refused.refusal
    code = grpc.StatusCode[ANSWERS[refusal.code].value[0]]
    await context.abort(code, details(refusal), ((REFUSAL_METADATA_KEY, refusal.code.value),))


def _refusing(refused: GrantRefusedError) -> _Handler:
    async def refuse(_request: bytes, context: _Context) -> bytes:
        await _refuse(context, refused)

    # Without a deserializer nothing of the message is parsed, and a stream's first message is answered all the same.
    return grpc.unary_unary_rpc_method_handler(refuse)


def _unregistered(reason: str) -> GrantRefusedError:
    return GrantRefusedError(RefusalCode.UNREGISTERED_CALL, f"{reason}.", "Use a method that takes one message.")


def _single_value(context: _Context, key: str) -> str | None:
    values = [value for name, value in context.invocation_metadata() or () if name == key]
    if len(values) > 1:
        raise GrantRefusedError(RefusalCode.GRANT_MALFORMED, f"the call carries `{key}` more than once.", "Send one.")
    return _text(values[0]) if values else None


def _text(value: str | bytes) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value
