"""TR-05: whatever bytes come, they are answered as such. Nothing fails inside, hangs, or is read in two ways."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepgrant.v1 import agent_pb2, dispatch_pb2, operator_pb2, verifier_pb2
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.ledger import Record
from tests.faults.malformed import VARINT, delimited, mangled, tag, wrong
from tests.kit.agent import declaring, opening
from tests.kit.desk import PARAMETERS, desk
from tests.kit.face import Face, serving
from tests.kit.heart import AGENT, Heart, heart

WITHIN = 5
METHODS = [
    method
    for file in (verifier_pb2, operator_pb2, dispatch_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
PROTO = Path(__file__).parents[2] / "proto" / "stepgrant" / "v1"
PERFORM_TASK = "/stepgrant.v1.AgentGateway/PerformTask"
AGENT_MESSAGE = agent_pb2.AgentMessage.DESCRIPTOR
NOT_FOLLOWING = tag(2, VARINT) + b"\x00"
"""Who follows the ledger is told nothing until something happens."""
STREAM_SAID = {"ALREADY_EXISTS", "FAILED_PRECONDITION"}
SAID = {"OK", "INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND", "UNAUTHENTICATED", "CANCELLED"}
"""How a call may end that nobody understands. What is missing: INTERNAL, UNKNOWN, and no end at all."""


@dataclass
class Wire:
    """A gateway's face over its real application, kept for all examples; time goes on a little with each."""

    runner: asyncio.Runner
    built: Heart
    face: Face
    channel: grpc.aio.Channel

    def ends(self, path: str, *messages: bytes, streaming: bool = True) -> str:
        """How a call ends whose messages are these bytes."""
        self.built.clock.advance(timedelta(milliseconds=100))
        self.face.peer = self.built.peer()
        return self.runner.run(self._ends(path, messages, streaming=streaming))

    def says(self, body: bytes, *, opens: bool) -> str:
        """How an agent's stream ends that says this and no more, first or after it has opened a task."""
        self.built.clock.advance(timedelta(milliseconds=100))
        self.face.peer = self.built.peer()
        # Any request to an operator's service may turn out to be a lock, and then nothing would be opened any more.
        self.built.state.locks.clear()
        return self.runner.run(self._says(body, opens=opens))

    async def _says(self, body: bytes, *, opens: bool) -> str:
        call = self.channel.stream_stream(PERFORM_TASK)(timeout=WITHIN)
        try:
            nonce = agent_pb2.GatewayMessage.FromString(await call.read()).challenge.nonce
            if opens:
                proven = opening(nonce, certificate=self.built.peer().credential_sha256, parameters_json=PARAMETERS)
                await call.write(agent_pb2.AgentMessage(request=1, open=proven).SerializeToString())
                assert agent_pb2.GatewayMessage.FromString(await call.read()).opened.task_id
            await call.write(body)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
            return (await call.code()).name
        except grpc.aio.AioRpcError as error:
            return error.code().name

    async def _ends(self, path: str, messages: tuple[bytes, ...], *, streaming: bool) -> str:
        try:
            if not streaming:
                await self.channel.unary_unary(path)(messages[0], timeout=WITHIN)
                return "OK"
            call = self.channel.stream_stream(path)(iter(messages), timeout=WITHIN)
            async for _ in call:
                if path.endswith(("Watch", "TailLedger")):
                    call.cancel()
            return (await call.code()).name
        except grpc.aio.AioRpcError as error:
            return error.code().name
        except asyncio.CancelledError:
            return "CANCELLED"


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with asyncio.Runner() as runner:
        begun = heart()
        built = runner.run(begun.__aenter__())

        def tail(after: int, follow: bool) -> AsyncIterator[Record]:
            return built.journal.tail(after, follow=follow)

        face = Face(built.operating, tail, frozenset({AGENT}), built)
        served = serving(face)
        channel = runner.run(served.__aenter__())
        yield Wire(runner, built, face, channel)
        runner.run(served.__aexit__(None, None, None))
        runner.run(begun.__aexit__(None, None, None))


def path_of(method) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def test_tr_05_every_service_of_the_protocol_is_looked_at():
    """A method that is added comes under these tests by itself, a service by the first run without it."""
    services = {
        name for file in PROTO.glob("*.proto") for name in re.findall(r"^service (\w+)", file.read_text(), re.MULTILINE)
    }
    assert services == {method.containing_service.name for method in METHODS} | {"AgentGateway"}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_tr_05_what_breaks_the_type_of_a_request_is_an_invalid_argument(wire, method):
    for what, body in wrong(method.input_type):
        said = wire.ends(path_of(method), body, streaming=method.server_streaming)
        assert said == "INVALID_ARGUMENT", what


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_tr_05_any_request_ends_as_what_it_is(wire, method):
    @given(mangled(method.input_type))
    @settings(max_examples=3 if method.name == "ReloadPolicy" else settings.default.max_examples)
    def holds(body: bytes) -> None:
        if method.name == "TailLedger":
            body += NOT_FOLLOWING
        assert wire.ends(path_of(method), body, streaming=method.server_streaming) in SAID

    holds()


@pytest.mark.parametrize("first", [True, False], ids=["in place of Open", "after it"])
def test_tr_05_what_breaks_the_type_of_an_agents_message_ends_its_stream(wire, first):
    good = agent_pb2.AgentMessage(request=1 if first else 2, declare=declaring()).SerializeToString()
    for what, body in wrong(AGENT_MESSAGE):
        assert wire.says(good + body, opens=not first) == "INVALID_ARGUMENT", what
    for member in AGENT_MESSAGE.oneofs[0].fields:
        for what, body in wrong(member.message_type):
            inner = delimited(member.number, body)
            assert wire.says(b"\x08\x02" + inner, opens=True) == "INVALID_ARGUMENT", f"{member.name}: {what}"


@pytest.mark.parametrize("first", [True, False], ids=["in place of Open", "after it"])
def test_tr_05_any_message_of_an_agent_ends_or_goes_on_as_what_it_is(wire, first):
    @given(mangled(AGENT_MESSAGE), st.booleans())
    def holds(body: bytes, numbered: bool) -> None:
        number = b"\x08\x01" if first else b"\x08\x02"
        assert wire.says(body + number if numbered else body, opens=not first) in SAID | STREAM_SAID

    holds()


async def test_tr_05_of_a_field_that_stands_twice_everybody_sees_the_last():
    """What is decided, what is granted and what is on record are of one reading."""
    async with desk() as built:
        chat = await built.open()
        first = agent_pb2.AgentMessage(request=2, declare=declaring(chat.step, tool="orders.refund"))
        last = agent_pb2.AgentMessage(declare=agent_pb2.Declare(tool="orders.get"))
        twice = agent_pb2.AgentMessage.FromString(first.SerializeToString() + last.SerializeToString())
        await chat.agent.call.write(twice)
        assert await chat.answer(2) == "granted"

        step = built.built.state.tasks[chat.task_id].shared.steps[chat.step]
        (event,) = built.events(EventType.STEP_GRANTED)
        assert (step.declared.tool, event.data["tool"]) == ("orders.get", "orders.get")
        assert event.data["target"] == step.target
