"""What a stream is going to send: in order, bounded, and with an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stepgrant.v1 import agent_pb2
from stepgrant_gateway.rpc.limits import MAX_OUTBOX
from stepgrant_gateway.rpc.status import OverloadedError


class Outbox:
    """Filled without waiting by whoever has something to say; emptied by the one writer of the stream."""

    def __init__(self, on_failure: Callable[[], None] | None = None) -> None:
        """`on_failure` is called soon after a failure, also while the writer is stuck with an agent that does not read."""
        self._on_failure = on_failure
        # A gateway has thousands of these, nearly all of them empty: an empty list is small, a deque and an Event are not.
        self._messages: list[agent_pb2.GatewayMessage] = []
        self._waiting: asyncio.Future[None] | None = None
        self._ended = False
        self._failure: Exception | None = None

    @property
    def ended(self) -> bool:
        """True once nothing more is taken."""
        return self._ended

    def put(self, message: agent_pb2.GatewayMessage) -> None:
        """Queues a message; nothing after the end. An agent that does not read loses its stream."""
        if self._ended:
            return
        if len(self._messages) >= MAX_OUTBOX:
            self._messages.clear()
            self.fail(OverloadedError(f"{MAX_OUTBOX} messages wait for an agent that does not read"))
            return
        self._messages.append(message)
        self._wake()

    def finish(self, last: agent_pb2.GatewayMessage | None = None) -> None:
        """Nothing comes after `last`. The first end stays."""
        if last is not None:
            self.put(last)
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Ends the stream with an error, after what is queued already. The first end stays."""
        if not self._ended:
            self._failure = error
            self._ended = True
            self._wake()
            if self._on_failure is not None:
                # Soon, not now: whoever fills the outbox may be in the middle of ending a step.
                asyncio.get_running_loop().call_soon(self._on_failure)

    async def next(self) -> agent_pb2.GatewayMessage | None:
        """The next message, or None at the end.

        Raises:
            Exception: what the stream was failed with.
        """
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._messages.pop(0)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
