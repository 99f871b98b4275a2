"""Two streams that take part in the same exchange: the gateway's own, and one of bare bytes of the same sizes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import grpc
from echo import FLOOR, SIZE_BYTES, STREAM
from rig import ECHO, GATEWAY, SUPPORT, Rig, channel

from stepgrant.dpop import InstanceKey, open_message
from stepgrant.grant import PROTOCOL_REVISION
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.v1 import agent_pb2, types_pb2
from stepgrant.v1.agent_pb2_grpc import AgentGatewayStub

WARM_UP: Final = 20
"""Steps before the first that counts."""
TASK_TYPE: Final = "Refund"
PARAMETERS: Final = '{"customer":"jo@x.org","order_id":"ord_00000042"}'
ARGUMENTS: Final = '{"limit":5,"query":"shoes"}'


class Contestant(Protocol):
    """Something that steps are made on."""

    async def step(self) -> float:
        """Makes a step and ends it; seconds from its declaration to the answer. The end takes place, but is not in them."""


class Conversation:
    """Messages and answers on one bidirectional call, any number of them at once."""

    def __init__(self, call: Any, number_of: Callable[[Any, int], int]) -> None:
        """`number_of`: which message an answer is for, by the answer and by how many came before it."""
        self._call = call
        self._number_of = number_of
        self._asked = 0
        self._writing = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    async def ask(self, message: Callable[[int], Any]) -> Any:
        """The answer to what `message` makes of its number, the first being 1."""
        async with self._writing:
            self._asked += 1
            number = self._asked
            future = self._waiting[number] = asyncio.get_running_loop().create_future()
            await self._call.write(message(number))
        return await future

    async def _read(self) -> None:
        heard = 0
        while (answer := await self._call.read()) is not grpc.aio.EOF:
            heard += 1
            waiting = self._waiting.pop(self._number_of(answer, heard), None)
            if waiting is not None:  # else it is a push, which nobody asked for
                waiting.set_result(answer)
        for future in self._waiting.values():
            future.set_exception(RuntimeError("the stream ended"))

    def end(self) -> None:
        """Cuts the call."""
        self._reader.cancel()
        self._call.cancel()


class GatewaySteps:
    """Steps of one task: `Declare` -> `Granted`, then `Report` -> `Settled`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.sizes: tuple[int, int, int, int] = (0, 0, 0, 0)
        """Bytes of the last Declare, Granted, Report and Settled."""

    async def step(self) -> float:
        """See `Contestant`."""
        declare = declaration()
        begun = time.perf_counter()
        granted = await self.declare(declare)
        took = time.perf_counter() - begun
        if granted.WhichOneof("message") != "granted":
            raise RuntimeError(f"not granted: {granted}")
        settled = await self.report(declare.step_id)
        asked = agent_pb2.AgentMessage(request=1000, declare=declare)
        ended = agent_pb2.AgentMessage(request=1000, report=_completed(declare.step_id))
        self.sizes = (asked.ByteSize(), granted.ByteSize(), ended.ByteSize(), settled.ByteSize())
        return took

    async def declare(self, declare: agent_pb2.Declare) -> agent_pb2.GatewayMessage:
        """What the gateway answers: granted, or denied."""
        return await self._conversation.ask(lambda number: agent_pb2.AgentMessage(request=number + 1, declare=declare))

    async def report(self, step_id: str) -> agent_pb2.GatewayMessage:
        """`Settled`, once the step has ended."""
        report = _completed(step_id)
        settled = await self._conversation.ask(lambda number: agent_pb2.AgentMessage(request=number + 1, report=report))
        if settled.WhichOneof("message") != "settled":
            raise RuntimeError(f"not settled: {settled}")
        return settled


def declaration() -> agent_pb2.Declare:
    """A search, as a new step."""
    step_id = ulid(datetime.now(UTC), os.urandom(ULID_RANDOM_BYTES))
    return agent_pb2.Declare(step_id=step_id, tool="orders.search", arguments_json=ARGUMENTS)


def _completed(step_id: str) -> agent_pb2.Report:
    return agent_pb2.Report(step_id=step_id, outcome=types_pb2.OUTCOME_COMPLETED)


class EchoSteps:
    """The same exchange without a gateway."""

    def __init__(self, conversation: Conversation, sizes: tuple[int, int, int, int]) -> None:
        self._conversation = conversation
        declare, granted, report, settled = sizes
        self._declare = granted.to_bytes(SIZE_BYTES, "big").ljust(declare, b"\0")
        self._report = settled.to_bytes(SIZE_BYTES, "big").ljust(report, b"\0")

    async def step(self) -> float:
        """See `Contestant`."""
        begun = time.perf_counter()
        await self._conversation.ask(lambda _: self._declare)
        took = time.perf_counter() - begun
        await self._conversation.ask(lambda _: self._report)
        return took


@asynccontextmanager
async def contestants(rig: Rig, echo: str) -> AsyncIterator[tuple[GatewaySteps, EchoSteps]]:
    """Both, warm: a fresh task at the gateway, and the echo at that address, with the sizes that our messages have."""
    async with task(rig) as ours, channel(rig, echo, ECHO) as to_echo:
        bare = Conversation(to_echo.stream_stream(STREAM)(), lambda _, heard: heard)
        try:
            for _ in range(WARM_UP):
                await ours.step()
            theirs = EchoSteps(bare, ours.sizes)
            for _ in range(WARM_UP):
                await theirs.step()
            yield ours, theirs
        finally:
            bare.end()


@asynccontextmanager
async def floor(rig: Rig, echo: str, sizes: tuple[int, int, int, int]) -> AsyncIterator[EchoSteps]:
    """The floor under a decision (`echo.Floor`), warm."""
    async with channel(rig, echo, ECHO) as to_echo:
        conversation = Conversation(to_echo.stream_stream(FLOOR)(), lambda _, heard: heard)
        try:
            steps = EchoSteps(conversation, sizes)
            for _ in range(WARM_UP):
                await steps.step()
            yield steps
        finally:
            conversation.end()


@asynccontextmanager
async def task(rig: Rig, *, identity: str = SUPPORT) -> AsyncIterator[GatewaySteps]:
    """A fresh task on a connection of its own."""
    async with channel(rig, rig.gateway, GATEWAY, identity=identity) as to_gateway:
        snapshot = rig.identity_of(identity).current()
        conversation = await opened(to_gateway, snapshot.leaf_sha256)
        try:
            yield GatewaySteps(conversation)
        finally:
            conversation.end()


async def opened(to_gateway: grpc.aio.Channel, certificate_sha256: bytes) -> Conversation:
    """A new stream with a task on it, over a channel that shows that certificate."""
    call = AgentGatewayStub(to_gateway).PerformTask(None)
    challenge = (await call.read()).challenge
    key = InstanceKey.generate()
    signed = open_message(challenge.gateway_id, challenge.nonce, certificate_sha256)
    message = agent_pb2.Open(
        revision=PROTOCOL_REVISION,
        task_type=TASK_TYPE,
        parameters_json=PARAMETERS,
        instance_key=key.public_der,
        signature=key.sign_es256_raw(signed),
    )
    await call.write(agent_pb2.AgentMessage(request=1, open=message))
    answer = await call.read()
    if answer.WhichOneof("message") != "opened":
        raise RuntimeError(f"not opened: {answer}")
    return Conversation(call, lambda answer, _: int(answer.reply_to) - 1)
