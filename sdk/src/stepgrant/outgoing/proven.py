"""A gRPC channel whose calls go over a connection that is proven when they are made, whatever has rotated since it was opened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, cast

import grpc

from stepgrant.errors import GatewayUnavailableError, MisuseError
from stepgrant.outgoing.connections import Connections
from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource


class ShownDetails(grpc.aio.ClientCallDetails):
    """Details of a call that has to show `identity`."""

    identity: IdentitySnapshot


def showing(details: grpc.aio.ClientCallDetails, metadata: Any, identity: IdentitySnapshot) -> ShownDetails:
    """The details with this metadata, to be sent over a connection that shows `identity`."""
    shown = ShownDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)
    shown.identity = identity
    return shown


class ProvenChannel(grpc.aio.Channel):
    """Calls first pass `interceptors`, then go over a connection of `connections`.

    They show the identity that `showing` gave them, or else the newest one of `source`.
    """

    def __init__(self, connections: Connections, source: IdentitySource, interceptors: Sequence[Any]) -> None:
        self._connections = connections
        self._source = source
        self._codecs: dict[str, tuple[Any, Any]] = {}
        routes = (_UnaryRoute(self), _AnswersRoute(self), _MessagesRoute(self), _StreamsRoute(self))
        # Runs the interceptors, and never connects: the last of them makes each call elsewhere.
        self._front = grpc.aio.secure_channel(
            connections.target, grpc.ssl_channel_credentials(), interceptors=cast("Any", [*interceptors, *routes])
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Ends every connection; calls that run get `grace` seconds."""
        await self._connections.close(grace)
        await self._front.close(None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the newest connection; IDLE while there is none."""
        return self._connections.state(try_to_connect=try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Not to be had: the connections of this channel come and go.

        Raises:
            UsageError: always.
        """
        raise grpc.aio.UsageError(f"wait for channel_ready() instead of a change of {last_observed_state.name}")

    async def channel_ready(self) -> None:
        """Returns when there is a proven connection.

        Raises:
            GatewayUnavailableError: nothing proves to be the server.
        """
        await self._connections.proven(await self._newest())

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *more: Any, **named: Any
    ) -> Any:
        """One message, one answer."""
        codecs = self._learn(method, request_serializer, response_deserializer)
        return self._front.unary_unary(method, *codecs, *more, **named)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *more: Any, **named: Any
    ) -> Any:
        """One message, a stream of answers."""
        codecs = self._learn(method, request_serializer, response_deserializer)
        return self._front.unary_stream(method, *codecs, *more, **named)

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *more: Any, **named: Any
    ) -> Any:
        """A stream of messages, one answer."""
        codecs = self._learn(method, request_serializer, response_deserializer)
        return self._front.stream_unary(method, *codecs, *more, **named)

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *more: Any, **named: Any
    ) -> Any:
        """A stream of messages, a stream of answers."""
        codecs = self._learn(method, request_serializer, response_deserializer)
        return self._front.stream_stream(method, *codecs, *more, **named)

    async def over(self, kind: str, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """The call, made over a proven connection; the time that takes is the call's own.

        Raises:
            AioRpcError: UNAVAILABLE or DEADLINE_EXCEEDED: there is no such connection; nothing was sent.
        """
        loop, left = asyncio.get_running_loop(), details.timeout
        started = loop.time()
        try:
            async with asyncio.timeout(left):
                shown = details.identity if isinstance(details, ShownDetails) else await self._newest()
                connection = await self._connections.proven(shown)
        except GatewayUnavailableError as error:
            raise _status(grpc.StatusCode.UNAVAILABLE, str(error)) from error
        except TimeoutError as error:
            raise _status(grpc.StatusCode.DEADLINE_EXCEEDED, "the server could not be reached in time") from error
        method: Any = details.method
        name = method.decode("ascii") if isinstance(method, bytes) else method
        multi = getattr(connection.channel, kind)(name, *self._codecs[name])
        call = multi(
            request,
            timeout=None if left is None else max(left - (loop.time() - started), 0.0),
            metadata=details.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )
        self._connections.carries(connection, call, sends=kind.startswith("stream_"))
        return call

    async def _newest(self) -> IdentitySnapshot:
        return await asyncio.to_thread(self._source.current)

    def _learn(self, method: str, *codecs: Any) -> tuple[Any, Any]:
        """Serializer and deserializer of a method: interceptors, which make the call, are not told them."""
        known = self._codecs.setdefault(method, codecs)
        if known != codecs:
            raise MisuseError(f"{method} was read and written in another way on this channel: open another for that")
        return known


class _UnaryRoute(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, channel: ProvenChannel) -> None:
        self._channel = channel

    async def intercept_unary_unary(self, _: Any, client_call_details: Any, request: Any) -> Any:
        call = await self._channel.over("unary_unary", client_call_details, request)
        with ended_as_unavailable():
            await call
        return call


class _AnswersRoute(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]  # as above
    def __init__(self, channel: ProvenChannel) -> None:
        self._channel = channel

    async def intercept_unary_stream(self, _: Any, client_call_details: Any, request: Any) -> Any:
        return await self._channel.over("unary_stream", client_call_details, request)


class _MessagesRoute(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]  # as above
    def __init__(self, channel: ProvenChannel) -> None:
        self._channel = channel

    async def intercept_stream_unary(self, _: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._channel.over("stream_unary", client_call_details, request_iterator)


class _StreamsRoute(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]  # as above
    def __init__(self, channel: ProvenChannel) -> None:
        self._channel = channel

    async def intercept_stream_stream(self, _: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._channel.over("stream_stream", client_call_details, request_iterator)


@contextmanager
def ended_as_unavailable() -> Iterator[None]:
    """Raises UNAVAILABLE where a call was cancelled because its connection was closed, and not by who waits for it.

    gRPC says the same in both cases, and a task that nobody cancelled would seem to be.
    """
    try:
        yield
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise _status(
            grpc.StatusCode.UNAVAILABLE, "the connection was closed: the server does not verify any more"
        ) from None


def _status(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, "")
