"""`AgentGateway`: the agent's face of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import grpc

from stepgrant.v1 import agent_pb2, agent_pb2_grpc
from stepgrant_gateway.core.ports import Clock, Entropy
from stepgrant_gateway.rpc.caller import current_caller
from stepgrant_gateway.rpc.leases import TaskOpener
from stepgrant_gateway.rpc.limits import NONCE_BYTES
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.rpc.opening import Speaker
from stepgrant_gateway.rpc.quotas import Errand, Quotas
from stepgrant_gateway.rpc.status import CallLostError, abort
from stepgrant_gateway.rpc.stream import STREAM_LOST, TaskStream
from stepgrant_gateway.rpc.turns import Turns

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class AgentService(agent_pb2_grpc.AgentGatewayServicer):
    """Serves one task a stream. When the stream ends, however it does, its lease has ended before anything else."""

    def __init__(
        self, tasks: TaskOpener, speaker: Speaker, live: LiveCalls, clock: Clock, entropy: Entropy, quotas: Quotas,
        adopt: Callable[[Metadata], None] | None = None,
    ) -> None:  # fmt: skip
        """`adopt` is given the metadata of each stream, in the stream's own context: for spans, which decide nothing."""
        self._tasks = tasks
        self._speaker = speaker
        self._live = live
        self._clock = clock
        self._entropy = entropy
        self._quotas = quotas
        self._turns = Turns(clock)
        self._adopt = adopt
        self._listeners: set[asyncio.Task[None]] = set()
        self._draining = False

    def drain(self) -> None:
        """Opens no task any more."""
        self._draining = True

    async def PerformTask(  # type: ignore[override]  # noqa: N802 - gRPC's name; its reader-writer form of a stream
        self,
        request_iterator: object,  # noqa: ARG002 - the reader-writer form reads from the context
        context: grpc.aio.ServicerContext[agent_pb2.AgentMessage, agent_pb2.GatewayMessage],
    ) -> None:
        """One stream of one agent, from challenge to end (agent.proto)."""
        if self._draining:
            await abort(context, CallLostError("draining", "this gateway stops and opens no tasks"))
        if self._adopt is not None:
            self._adopt(context.invocation_metadata() or ())
        caller = current_caller()
        patience = partial(self._quotas.wait, Errand.DECLARE, caller.id)
        nonce = self._entropy(NONCE_BYTES)
        stream = TaskStream(caller, self._tasks, self._speaker, self._clock, nonce, patience, self._turns)
        call = self._live.enter(caller, stream.lose)
        stream.greet()
        listener = self._listen(stream, context)
        try:
            while (message := await stream.outbox.next()) is not None:
                await context.write(message)
        except Exception as error:  # noqa: BLE001 - every failure gets its status, once the lease has ended
            stream.break_off(error)
            await abort(context, error)
        finally:
            stream.end(STREAM_LOST, "the agent's stream ended")
            stream.leave(call.leave)
            if not stream.opening:
                listener.cancel()

    def _listen(self, stream: TaskStream, context: grpc.aio.ServicerContext[Any, Any]) -> asyncio.Task[None]:
        """Reads beside the writing. Kept here, since a task that is being opened outlives a stream that is gone."""
        listener = asyncio.get_running_loop().create_task(stream.listen(context.read))
        self._listeners.add(listener)
        listener.add_done_callback(self._listeners.discard)
        return listener
