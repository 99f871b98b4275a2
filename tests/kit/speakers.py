"""Gateways that speak the agent's protocol, all alike to a contract; and an agent that speaks it word by word."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import grpc

from stepgrant.clock import LoopClock
from stepgrant.dpop import InstanceKey, open_message
from stepgrant.ids import ulid
from stepgrant.link import Address, Links
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant.spiffe.source import IdentitySource
from stepgrant.testing import ScriptedGateway
from stepgrant.v1 import agent_pb2, operator_pb2, operator_pb2_grpc, types_pb2
from tests.kit.running import ISSUER, Running, running_gateway

PARAMETERS = '{"customer":"jo@x.org","order_id":"ord_00000042"}'
ARGUMENTS = '{"order_id":"ord_00000042"}'
ANSWER_WITHIN = 5


class Speaker(Protocol):
    """A gateway to which `Refund` may be opened, `orders.get` is granted, and `orders.refund` of 40 is denied."""

    address: Address
    gateway_id: SpiffeId

    def identity(self, path: str = "agent/support") -> IdentitySource:
        """By default of a workload that may open `Refund`."""

    async def until_lost(self, task_id: str) -> None:
        """Returns when the gateway has seen that the stream of this task is gone."""

    async def end(self, step_id: str) -> None:
        """Ends a live step against the agent's will."""


class ScriptedSpeaker:
    """`stepgrant.testing.ScriptedGateway`."""

    def __init__(self, gateway: ScriptedGateway) -> None:
        gateway.open("Refund")
        gateway.grant("orders.get")
        self._gateway = gateway
        self.address = gateway.address
        self.gateway_id = gateway.gateway_id

    def identity(self, path: str = "agent/support") -> IdentitySource:
        return self._gateway.identity(path)

    async def until_lost(self, task_id: str) -> None:
        await self._gateway.until(lambda: task_id in self._gateway.lost)

    async def end(self, step_id: str) -> None:
        await self._gateway.revoke(step_id)


class RealSpeaker:
    """The gateway itself, with the policy of the support desk."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.address = running.address
        self.gateway_id = parse_spiffe_id(ISSUER)

    def identity(self, path: str = "agent/support") -> IdentitySource:
        return self._running.identity(path)

    async def until_lost(self, task_id: str) -> None:
        operator = operator_pb2_grpc.OperatorStub(await self._running.channel("operator/jo"))
        async with asyncio.timeout(ANSWER_WITHIN):
            while True:
                listed = await operator.ListSteps(operator_pb2.ListStepsRequest(task_id=task_id))
                if not any(step.state == "granted" for step in listed.steps):
                    return

    async def end(self, step_id: str) -> None:
        operator = operator_pb2_grpc.OperatorStub(await self._running.channel("operator/jo"))
        await operator.SetLock(
            operator_pb2.SetLockRequest(selector=types_pb2.Selector(tool="orders.get"), reason="An incident.")
        )


@asynccontextmanager
async def speaking(kind: str) -> AsyncIterator[Speaker]:
    """A gateway of that kind: `scripted` or `real`. A further one is a branch here and a name in the contract."""
    async with AsyncExitStack() as stack:
        if kind == "real":
            yield RealSpeaker(await stack.enter_async_context(running_gateway()))
        else:
            yield ScriptedSpeaker(await stack.enter_async_context(ScriptedGateway()))


class RawAgent:
    """An agent that says exactly what the test says, and hears exactly what the gateway answers."""

    def __init__(self, speaker: Speaker, call: Any, leaf_sha256: bytes, key: InstanceKey | None) -> None:
        self.speaker = speaker
        self.key = key or InstanceKey.generate()
        self._call = call
        self._leaf_sha256 = leaf_sha256
        self._number = 0
        self.nonce = b""

    async def hear(self) -> agent_pb2.GatewayMessage:
        """The next message; fails the test when there is none."""
        message = await asyncio.wait_for(self._call.read(), ANSWER_WITHIN)
        assert isinstance(message, agent_pb2.GatewayMessage), await self._call.details()
        return message

    async def status(self) -> grpc.StatusCode:
        """How the stream ends, whatever is said before."""
        async with asyncio.timeout(ANSWER_WITHIN):
            try:
                while isinstance(await self._call.read(), agent_pb2.GatewayMessage):
                    pass
            except grpc.aio.AioRpcError:
                pass
            return await self._call.code()

    async def write(self, message: agent_pb2.AgentMessage) -> None:
        """These very bytes."""
        await self._call.write(message)

    async def say(self, **member: Any) -> agent_pb2.GatewayMessage:
        """One request with the next number, and the next thing that the gateway says."""
        self._number += 1
        await self.write(agent_pb2.AgentMessage(request=self._number, **member))
        return await self.hear()

    async def challenged(self) -> agent_pb2.Challenge:
        """The gateway's first word."""
        message = await self.hear()
        assert message.reply_to == 0
        self.nonce = message.challenge.nonce
        return message.challenge

    def opening(self, **changes: Any) -> agent_pb2.Open:
        """What opens `Refund`, with a proof that holds, and with changes."""
        signed = open_message(str(self.speaker.gateway_id), self.nonce, self._leaf_sha256)
        fields = {
            "revision": 1,
            "task_type": "Refund",
            "parameters_json": PARAMETERS,
            "instance_key": self.key.public_der,
            "signature": self.key.sign_es256_raw(signed),
        }
        return agent_pb2.Open(**(fields | changes))

    async def open(self, **changes: Any) -> agent_pb2.Opened:
        """Opens `Refund`, or takes it up."""
        await self.challenged()
        answer = await self.say(open=self.opening(**changes))
        assert (answer.reply_to, answer.WhichOneof("message")) == (1, "opened"), answer
        return answer.opened

    async def hang_up(self) -> None:
        """Ends the stream without a word."""
        self._call.cancel()

    async def declare(self, step_id: str, tool: str = "orders.get", arguments: str = ARGUMENTS, **more: Any) -> Any:
        """Declares a step."""
        return await self.say(declare=agent_pb2.Declare(step_id=step_id, tool=tool, arguments_json=arguments, **more))


@asynccontextmanager
async def raw_agent(
    speaker: Speaker, identity: IdentitySource, key: InstanceKey | None = None
) -> AsyncIterator[RawAgent]:
    """A fresh stream to the gateway, authenticated and pinned as any; with this instance key or a new one."""
    links = Links(speaker.address, speaker.gateway_id, identity, LoopClock())
    link, _ = await links.acquire()
    call = link.stream()
    try:
        yield RawAgent(speaker, call, hashlib.sha256(link.snapshot.chain_der[0]).digest(), key)
    finally:
        call.cancel()
        await links.close()


def new_id() -> str:
    """A ULID."""
    return ulid(datetime.now(UTC), os.urandom(10))
