"""A stream and the lease that it has: what becomes of both when another stream takes the task over."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from stepgrant.errors import InvalidSvidError
from stepgrant.v1 import agent_pb2, types_pb2
from stepgrant_gateway.core.boundary import Outcome, TaskClosed
from tests.kit.agent import Agent, declaring, opening
from tests.kit.face import STEP, Face, serving
from tests.kit.loop import settled


@pytest.fixture
async def face():
    face = Face()
    async with serving(face) as channel:
        face.channel = channel
        yield face


@pytest.fixture
async def opened(face):
    agent = Agent(face.channel)
    await agent.open()
    agent.lease = face.tasks.leases[0]
    return agent


async def test_sm_03_a_taken_over_stream_answers_what_was_asked_on_it_and_hears_nothing_else(opened):
    opened.lease.hold = asyncio.Event()
    await opened.send(declare=declaring())
    await opened.send(report=agent_pb2.Report(step_id=STEP, outcome=types_pb2.OUTCOME_COMPLETED))
    assert (await opened.read()).settled.state == "completed"
    opened.lease.push(TaskClosed("taken_over", "another stream has it"))
    await opened.send(report=agent_pb2.Report(step_id=STEP, outcome=types_pb2.OUTCOME_FAILED))
    opened.lease.hold.set()

    assert (await opened.read()).granted.step_id == STEP
    assert (await opened.read()).closed.code == "taken_over"
    assert await opened.at_end()
    assert [getattr(asked, "outcome", None) for asked in opened.lease.asked] == [None, Outcome.COMPLETED]


async def test_inv_07_the_svid_of_a_taken_over_stream_is_watched_while_steps_rest_on_it(face, opened):
    opened.lease.steps_live_on = True
    opened.lease.push(TaskClosed("taken_over", "another stream has it"))
    assert (await opened.read()).closed.code == "taken_over"
    assert await opened.at_end()

    face.peer = InvalidSvidError("its authority is out of the bundle")
    face.live.verify_again()
    assert opened.lease.losses[-1] == "identity_lost"


async def test_nothing_is_left_of_a_taken_over_stream_that_no_step_rests_on(face, opened):
    opened.lease.push(TaskClosed("taken_over", "another stream has it"))
    assert (await opened.read()).closed.code == "taken_over"
    await opened.status()
    await settled(lambda: not len(face.live))


@pytest.mark.parametrize("token", [b"r" * 31, b"r" * 33])
async def test_a_resume_token_is_of_its_size(face, token):
    agent = Agent(face.channel)
    await agent.send(open=opening((await agent.read()).challenge.nonce, resume_token=token))

    assert await agent.status() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_resume_token_reaches_the_application_and_the_next_one_the_agent(face):
    answer = await Agent(face.channel).open(resume_token=b"t" * 32)

    assert face.tasks.requests[0][1].resume_token == b"t" * 32
    assert answer.opened.resume_token == b"r" * 32
