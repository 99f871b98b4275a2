"""A gRPC channel to one protected resource: own SVID, the resource pinned by its SPIFFE ID, the grant in the metadata."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import grpc

from stepgrant.answers import Grant
from stepgrant.calls import GrpcCalls
from stepgrant.client import Client
from stepgrant.clock import LoopClock
from stepgrant.defaults import current_client
from stepgrant.dpop import grpc_htu, make_proof
from stepgrant.errors import InvalidIdError, MisuseError, RefusalCode
from stepgrant.grant import DPOP_HEADER, GRANT_METADATA_KEY, REFUSAL_METADATA_KEY, Binding
from stepgrant.link import parse_address
from stepgrant.outgoing.carrying import carrying_step, refuse_other_audience, step_for
from stepgrant.outgoing.connections import Connections
from stepgrant.outgoing.proven import ProvenChannel, ended_as_unavailable, showing
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant.spiffe.source import IdentitySource
from stepgrant.step import Step
from stepgrant.tasks import CURRENT_TASK

JTI_BYTES: Final = 16


@asynccontextmanager
async def channel(
    audience: str,
    target: str,
    *,
    calls: GrpcCalls | None = None,
    server_id: str | None = None,
    client: Client | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the resource that is `audience`, at `target` (`host:port`), for as long as the block runs.

    Inside a step whose grant is for this audience, calls carry that grant. Otherwise a call that `calls` knows becomes a
    step of its own: declared from the message, called, reported. Other calls carry nothing. `server_id` is the SPIFFE ID
    that the resource must prove; by default the audience, if that is one. A call under a grant shows the SVID of its task,
    every other the newest one. When the resource rotates, it is proven anew; where nobody proves to be it, a call fails at
    once, with `wait_for_ready` too.

    Raises:
        MisuseError: no SPIFFE ID to expect, or a malformed target.
        GatewayUnavailableError: nothing at `target` proves to be `server_id`.
    """
    expected = _server_id(server_id or audience)
    address = parse_address(target, f"the target of {audience}")
    source = await _identity(client)
    carrier = _Carrier(audience, address.target, calls)
    connections = Connections(address, expected, source, LoopClock())
    async with ProvenChannel(connections, source, [_UnaryCalls(carrier), _StreamedAnswers(carrier)]) as opened:
        await opened.channel_ready()
        yield opened


class _Carrier:
    """Decides what a call carries."""

    def __init__(self, audience: str, authority: str, calls: GrpcCalls | None) -> None:
        self.audience = audience
        self._authority = authority
        self._calls = calls

    def carried(self, details: grpc.aio.ClientCallDetails) -> Step | None:
        """The current step, if this call may carry its grant."""
        method = _method(details)
        known = self._calls is not None and method in self._calls
        return carrying_step(self.audience, self._calls.tool(method) if self._calls is not None and known else None)

    def declared(self, details: grpc.aio.ClientCallDetails, request: Any) -> Step | None:
        """A step made from the message that is about to be sent; None if this call is not a protected one."""
        method = _method(details)
        if self._calls is None or method not in self._calls:
            return None
        return step_for(self._calls.read(method, request))

    def with_grant(self, details: grpc.aio.ClientCallDetails, step: Step) -> grpc.aio.ClientCallDetails:
        """The call's details with the step's grant, for this audience and under the grant's own certificate only."""
        refuse_other_audience(step, self.audience)
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add(GRANT_METADATA_KEY, step.grant.token)
        if step.grant.binding is Binding.KEY:
            proof = make_proof(
                step.holder.instance_key,
                htm="POST",
                htu=grpc_htu(self._authority, _method(details)),
                grant=step.grant.token,
                now=datetime.now(UTC),
                jti=secrets.token_urlsafe(JTI_BYTES),
            )
            metadata.add(DPOP_HEADER, proof)
        return showing(details, metadata, step.holder.identity)


class _UnaryCalls(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """One message, one answer."""

    def __init__(self, carrier: _Carrier) -> None:
        self._carrier = carrier

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Adds the grant. A call that its renewal overtook is made again, once, under the newer grant."""
        step = self._carrier.carried(client_call_details)
        if step is not None:
            grant = step.grant
            try:
                call = await continuation(self._carrier.with_grant(client_call_details, step), request)
                await call
            except grpc.aio.AioRpcError as error:
                if not (_refused_as_dead(error) and await step.newer(grant) is not None):
                    raise
                return await continuation(self._carrier.with_grant(client_call_details, step), request)
            return call
        declared = self._carrier.declared(client_call_details, request)
        if declared is None:
            return await continuation(client_call_details, request)
        async with declared as step:
            call = await continuation(self._carrier.with_grant(client_call_details, step), request)
            await call  # The step lasts as long as the call, and fails with it.
            return call


class _StreamedAnswers(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]  # as above
    """One message, a stream of answers."""

    def __init__(self, carrier: _Carrier) -> None:
        self._carrier = carrier

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Adds the grant. A call that its renewal overtook is made again, once, under the newer grant."""
        step = self._carrier.carried(client_call_details)
        if step is not None:
            grant = step.grant
            call = await continuation(self._carrier.with_grant(client_call_details, step), request)

            async def again() -> Any:
                return await continuation(self._carrier.with_grant(client_call_details, step), request)

            return _carried_answers(call, step, grant, again)
        declared = self._carrier.declared(client_call_details, request)
        if declared is None:
            return await continuation(client_call_details, request)
        await declared.begin()
        try:
            call = await continuation(self._carrier.with_grant(client_call_details, declared), request)
        except BaseException as error:
            await declared.finish(error)
            raise
        return self._answers(declared, call)

    async def _answers(self, step: Step, call: Any) -> AsyncIterator[Any]:
        """The answers; the step lasts as long as they come, and what comes after its end is not handed on."""
        step.interrupts(call.cancel)
        try:
            async for answer in call:
                step.refuse_ended()
                yield answer
        except BaseException as error:
            await step.finish(error)
            current = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and not (current and current.cancelling()):
                step.refuse_ended()  # The call was cancelled with the step, and not by who reads the answers.
                with ended_as_unavailable():
                    raise
            raise
        await step.finish(None)


async def _carried_answers(
    call: Any, step: Step, grant: Grant, again: Callable[[], Awaitable[Any]]
) -> AsyncIterator[Any]:
    try:
        first = True
        with ended_as_unavailable():
            async for answer in call:
                first = False
                yield answer
    except grpc.aio.AioRpcError as error:
        if not (first and _refused_as_dead(error) and await step.newer(grant) is not None):
            raise
    else:
        return
    async for answer in await again():
        yield answer


def _refused_as_dead(error: grpc.aio.AioRpcError) -> bool:
    """True if the resource said that the grant is dead: then its handler has not run."""
    trailing: Any = error.trailing_metadata() or ()
    return (REFUSAL_METADATA_KEY, RefusalCode.REVOKED.value) in [tuple(pair) for pair in trailing]


async def _identity(client: Client | None) -> IdentitySource:
    task = CURRENT_TASK.get()
    return task.holder.source if task is not None else (client or await current_client()).identity


def _method(details: grpc.aio.ClientCallDetails) -> str:
    method: str | bytes = details.method
    return method.decode("ascii") if isinstance(method, bytes) else method


def _server_id(text: str) -> SpiffeId:
    try:
        return parse_spiffe_id(text, what="the resource's id")
    except InvalidIdError as error:
        raise MisuseError(f"{error}: say which SPIFFE ID the resource must prove, server_id=...") from error
