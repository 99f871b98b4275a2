"""The real application behind the real protocol, on a clock and a ledger that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from stepgrant.ids import ulid
from stepgrant.v1 import agent_pb2, verifier_pb2_grpc
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import decode_event
from tests.kit.agent import WAIT, Agent
from tests.kit.face import Face, serving
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import ORDERS, Heart, heart

PARAMETERS = '{"customer":"jo@x.org","order_id":"ord_00000042"}'
GRANTS = (EventType.STEP_GRANTED, EventType.STEP_RENEWED)


@dataclass
class Desk:
    """One gateway with its face, and a ledger that can be held up."""

    built: Heart
    store: FaultyStore
    face: Face
    channel: grpc.aio.Channel

    def new_id(self) -> str:
        return ulid(self.built.clock.now(), self.built.entropy(10))

    def events(self, *kinds: EventType) -> list[Event]:
        """What is in the ledger, oldest first."""
        records = self.store.inner.read(self.built.instance, 0, 100_000)
        return [event for event in map(decode_event, (record.body for record in records)) if event.type in kinds]

    async def open(self) -> Conversation:
        """A stream with an open task."""
        self.face.peer = peer = self.built.peer()
        agent = Agent(self.channel)
        opened = (await agent.open(certificate=peer.credential_sha256, parameters_json=PARAMETERS)).opened
        assert opened.task_id
        return Conversation(self, agent, opened.task_id, self.new_id())

    def verifier(self) -> verifier_pb2_grpc.GrantVerifierStub:
        """The orders service."""
        self.face.peer = self.built.peer(ORDERS)
        return verifier_pb2_grpc.GrantVerifierStub(self.channel)


@dataclass
class Conversation:
    """One stream, one task, and the step that a test is about."""

    desk: Desk
    agent: Agent
    task_id: str
    step: str
    grant: str = ""
    heard: dict[int, str] = field(default_factory=dict)

    async def say(self, **member: Any) -> int:
        """Sends one message; its number."""
        await self.agent.send(**member)
        return self.agent.number

    async def answer(self, number: int) -> str:
        """What the answer to that message comes to, however much is said before it; `ends STATUS` if the stream ends."""
        try:
            while number not in self.heard:
                message = await asyncio.wait_for(self.agent.call.read(), WAIT)
                if message is grpc.aio.EOF:
                    return f"ends {(await self.agent.call.code()).name}"
                if message.reply_to:
                    self.heard[message.reply_to] = self.told(message)
        except grpc.aio.AioRpcError as error:
            return f"ends {error.code().name}"
        return self.heard[number]

    async def ask(self, **member: Any) -> str:
        """One message and its answer."""
        return await self.answer(await self.say(**member))

    def told(self, message: agent_pb2.GatewayMessage) -> str:
        """What a message comes to, in a word or two."""
        match message.WhichOneof("message"):
            case "granted":
                same = message.granted.grant_id == self.grant
                self.grant = self.grant or message.granted.grant_id
                return "the same grant" if same else "granted"
            case "denied":
                return message.denied.code
            case "settled":
                return ("late " if message.settled.late else "") + message.settled.state
            case what:
                return str(what)

    def fingerprint(self) -> object:
        """Where the step is, with its grant and its uses; and which grants of the task are live."""
        task = self.desk.built.state.tasks.get(self.task_id)
        step = task.shared.steps.get(self.step) if task else None
        held = step.grant.grant_id if step and step.grant else None
        live = sorted(task.live) if task else None
        return (live, step and (step.state, step.code, held, step.uses_left), len(self.desk.events(*GRANTS)))


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """The support desk's gateway, serving."""
    store = FaultyStore()
    async with heart(store) as built:
        face = Face(application=built)
        async with serving(face) as channel:
            yield Desk(built, store, face, channel)
