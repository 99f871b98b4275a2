"""The agent's stream, on loopback, in front of an application that grants everything."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest

from stepgrant.errors import Denial, DenialCode, InvalidSvidError
from stepgrant.ids import ulid
from stepgrant.v1 import agent_pb2, types_pb2
from stepgrant_gateway.core.boundary import Outcome, StepEnded, TaskClosed
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.rpc.limits import AT_ONCE, MAX_WAITING, OPEN_WITHIN
from tests.kit.agent import WAIT, Agent, declaring, opening
from tests.kit.clock import START
from tests.kit.face import AGENT, GATEWAY_ID, INSTANCE, STEP, TASK, Face, FakeLease, serving


def step_id(number: int) -> str:
    return ulid(START, number.to_bytes(10, "big"))


@pytest.fixture
async def face():
    face = Face()
    async with serving(face) as channel:
        face.channel = channel
        yield face


@pytest.fixture
async def opened(face):
    agent = Agent(face.channel)
    agent.opened = (await agent.open()).opened
    agent.lease = face.tasks.leases[0]
    return agent


async def test_the_gateway_speaks_first_and_says_who_it_is(face):
    challenge = (await Agent(face.channel).read()).challenge

    assert (challenge.gateway_id, challenge.revision, len(challenge.nonce)) == (GATEWAY_ID, 1, 32)


async def test_a_proven_open_opens_the_task_for_the_verified_peer(face, opened):
    peer, request = face.tasks.requests[0]

    assert (opened.opened.task_id, opened.opened.instance_id) == (TASK, INSTANCE)
    assert opened.opened.limits.depth == 4
    assert peer == AGENT
    assert (request.task_type, request.parameters) == ("Refund", {"order_id": "ord_00000042"})
    assert len(request.instance_jkt) == 32


@pytest.mark.parametrize(
    "wrong",
    [
        {"certificate": b"x" * 32},
        {"gateway": "spiffe://acme.org/other"},
        {"signature": b"\1" * 64},
        {"instance_key": b"no key"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_an_open_that_does_not_prove_its_key_for_this_stream_is_unauthenticated(face, wrong):
    agent = Agent(face.channel)
    await agent.send(open=opening((await agent.read()).challenge.nonce, **wrong))

    assert await agent.status() is grpc.StatusCode.UNAUTHENTICATED
    assert face.tasks.requests == []


async def test_a_proof_for_another_nonce_is_unauthenticated(face):
    agent = Agent(face.channel)
    await agent.send(open=opening(b"o" * 32))

    assert await agent.status() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_denied_open_is_the_last_that_the_stream_says(face):
    face.tasks.denial = Denial(DenialCode.NO_PERMIT, "no", "ask", decision_id=INSTANCE)
    agent = Agent(face.channel)

    answer = await agent.open()

    assert (answer.reply_to, answer.denied.code, answer.denied.decision_id) == (1, "no_permit", INSTANCE)
    assert await agent.at_end()
    assert await agent.status() is grpc.StatusCode.OK


async def test_parameters_that_are_not_strict_json_are_denied_with_what_is_wrong(face):
    answer = await Agent(face.channel).open(parameters_json='{"a":1,"a":2}')

    assert (answer.denied.code, answer.denied.argument) == ("arguments_invalid", "a")


async def test_an_agent_that_does_not_open_in_time_loses_the_stream(face):
    agent = Agent(face.channel)
    await agent.read()

    face.clock.advance(OPEN_WITHIN)

    assert await agent.status() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_declare_report_renew_and_close_are_answered_by_number(face, opened):
    await opened.send(declare=declaring())
    granted = await opened.read()
    await opened.send(renew=agent_pb2.Renew(step_id=STEP))
    renewed = await opened.read()
    await opened.send(report=agent_pb2.Report(step_id=STEP, outcome=types_pb2.OUTCOME_COMPLETED))
    settled = await opened.read()
    await opened.send(close=agent_pb2.Close(outcome=types_pb2.OUTCOME_COMPLETED))
    closed = await opened.read()

    assert (granted.reply_to, granted.granted.tier, granted.granted.uses) == (2, "sensitive", 1)
    assert (renewed.reply_to, renewed.granted.step_id) == (3, STEP)
    assert (settled.reply_to, settled.settled.state) == (4, "completed")
    assert (closed.reply_to, closed.closed.code) == (5, "closed")
    assert await opened.at_end()
    assert opened.lease.asked[-1] is Outcome.COMPLETED
    assert not opened.lease.ended.done()


async def test_a_declare_that_waits_for_the_disk_does_not_block_a_report(opened):
    opened.lease.hold = asyncio.Event()
    await opened.send(declare=declaring(step_id(1)))
    await opened.send(report=agent_pb2.Report(step_id=step_id(2), outcome=types_pb2.OUTCOME_FAILED))

    assert (await opened.read()).reply_to == 3
    opened.lease.hold.set()
    assert (await opened.read()).reply_to == 2


async def test_arguments_that_are_not_strict_json_are_denied_and_the_stream_goes_on(opened):
    await opened.send(declare=declaring(arguments_json='{"amount": NaN}'))
    assert (await opened.read()).denied.code == "arguments_invalid"

    await opened.send(declare=declaring())
    assert (await opened.read()).granted.step_id == STEP


async def test_more_declares_than_may_wait_are_overloaded_and_told_when_to_come_back(opened):
    opened.lease.hold = asyncio.Event()
    for number in range(MAX_WAITING + 1):
        await opened.send(declare=declaring(step_id(number)))

    denied = (await opened.read()).denied

    assert (denied.code, denied.retry_after_ms) == ("overloaded", 50)
    assert len(opened.lease.asked) == AT_ONCE, "more than its turns are worked on"
    opened.lease.hold.set()
    for _ in range(MAX_WAITING):
        assert (await opened.read()).WhichOneof("message") == "granted"
    assert len(opened.lease.asked) == MAX_WAITING


@pytest.mark.parametrize("how", ["half_close", "cancel"])
async def test_sm_03_the_lease_ends_with_the_stream_however_it_ends(opened, how):
    """INV-05: a step whose stream is gone is abandoned at once."""
    if how == "cancel":
        opened.call.cancel()
    else:
        await opened.call.done_writing()

    assert (await asyncio.wait_for(opened.lease.ended, WAIT))[0] == "stream_lost"


async def test_a_task_that_was_being_opened_when_its_stream_went_ends_as_soon_as_it_is_open(face):
    face.tasks.hold = asyncio.Event()
    agent = Agent(face.channel)
    await agent.send(open=opening((await agent.read()).challenge.nonce))
    await asyncio.wait_for(face.tasks.asked.wait(), WAIT)

    left = asyncio.Event()
    leave = face.live.forget
    face.live.forget = lambda key: (leave(key), left.set())
    agent.call.cancel()
    await asyncio.wait_for(left.wait(), WAIT)
    face.tasks.hold.set()
    await asyncio.wait_for(face.tasks.leased.wait(), WAIT)

    assert (await asyncio.wait_for(face.tasks.leases[0].ended, WAIT))[0] == "stream_lost"


async def test_a_stream_ends_when_the_svid_it_came_with_expires(face, opened):
    """INV-04: no grant outlives the SVID of its stream."""
    face.clock.advance(timedelta(hours=1))

    assert (await asyncio.wait_for(opened.lease.ended, WAIT))[0] == "identity_expired"
    assert (await opened.read()).closed.code == "identity_expired"
    assert await opened.at_end()


async def test_a_stream_ends_when_its_svid_verifies_no_more_after_a_bundle_change(face, opened):
    """INV-07: loss of identity ends everything now."""
    face.peer = InvalidSvidError("its authority has left the bundle")
    assert face.live.verify_again() == 1

    assert (await asyncio.wait_for(opened.lease.ended, WAIT))[0] == "identity_lost"
    assert (await opened.read()).closed.code == "identity_lost"


async def test_a_stream_whose_svid_still_verifies_goes_on(face, opened):
    assert face.live.verify_again() == 0

    await opened.send(declare=declaring())
    assert (await opened.read()).granted.step_id == STEP


async def test_a_drain_ends_streams_and_opens_none(face, opened):
    face.agent.drain()
    face.live.drain()

    assert (await opened.read()).closed.code == "draining"
    assert await Agent(face.channel).status() is grpc.StatusCode.UNAVAILABLE


async def test_what_the_application_pushes_reaches_the_agent_unasked(opened):
    opened.lease.push(StepEnded(STEP, "revoked", "locked", "an operator locked it", START))
    revoked = await opened.read()
    opened.lease.push(TaskClosed("task_expired", "its time is up"))
    closed = await opened.read()

    assert (revoked.reply_to, revoked.revoked.code) == (0, "locked")
    assert (closed.reply_to, closed.closed.code) == (0, "task_expired")
    assert await opened.at_end()


async def test_what_cannot_be_recorded_is_unavailable(opened):
    """INV-03: no record, no grant."""
    opened.lease.error = UnrecordedError("the ledger does not answer")
    await opened.send(declare=declaring())

    assert await opened.status() is grpc.StatusCode.UNAVAILABLE


async def test_an_unexpected_failure_ends_the_stream_and_tells_nothing(opened):
    opened.lease.error = RuntimeError("secret detail")
    await opened.send(declare=declaring())

    assert await opened.status() is grpc.StatusCode.INTERNAL
    assert "secret" not in await opened.call.details()
    assert (await asyncio.wait_for(opened.lease.ended, WAIT))[0] == "stream_lost"


def unknown_field(message):
    return type(message).FromString(message.SerializeToString() + b"\xfa\x07\x01x")


WRONG = {
    "a gap in the numbers": agent_pb2.AgentMessage(request=9, renew=agent_pb2.Renew(step_id=STEP)),
    "a number twice": agent_pb2.AgentMessage(request=1, renew=agent_pb2.Renew(step_id=STEP)),
    "no member": agent_pb2.AgentMessage(request=2),
    "an unknown field": unknown_field(agent_pb2.AgentMessage(request=2, renew=agent_pb2.Renew(step_id=STEP))),
    "an unknown field inside": agent_pb2.AgentMessage(request=2, declare=unknown_field(declaring())),
    "a second open": agent_pb2.AgentMessage(request=2, open=opening(b"n" * 32)),
    "an outcome that is none": agent_pb2.AgentMessage(request=2, report=agent_pb2.Report(step_id=STEP)),
    "an outcome of another revision": agent_pb2.AgentMessage(request=2, close=agent_pb2.Close(outcome=7)),
    "a step id in lower case": agent_pb2.AgentMessage(request=2, renew=agent_pb2.Renew(step_id=STEP.lower())),
    "a tool without a server": agent_pb2.AgentMessage(request=2, declare=declaring(tool="get")),
    "a purpose without end": agent_pb2.AgentMessage(request=2, declare=declaring(purpose="p" * 1025)),
    "a digest of 31 bytes": agent_pb2.AgentMessage(
        request=2, report=agent_pb2.Report(step_id=STEP, outcome=types_pb2.OUTCOME_FAILED, result_sha256=b"r" * 31)
    ),
    "a lifetime of years": agent_pb2.AgentMessage(request=2, declare=declaring(wanted_ttl_ms=2**63)),
    "an empty envelope": agent_pb2.AgentMessage(request=2, declare=declaring(envelope=types_pb2.Envelope())),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_message_that_the_protocol_does_not_allow_ends_the_stream(opened, what):
    """INV-11: unknown fields, unset members, unknown values are refused, and everything ends."""
    await opened.call.write(WRONG[what])

    assert await opened.status() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await asyncio.wait_for(opened.lease.ended, WAIT))[0] == "stream_broken"


@pytest.mark.parametrize(
    "wrong",
    [
        {"revision": 2},
        {"task_type": ""},
        {"task_type": "T" * 129},
        {"purpose": "p" * 1025},
        {"instance_key": b"k" * 257},
        {"signature": b"s" * 63},
    ],
    ids=str,
)
async def test_an_open_out_of_bounds_is_refused(face, wrong):
    agent = Agent(face.channel)
    await agent.send(open=opening((await agent.read()).challenge.nonce, **wrong))

    assert await agent.status() is grpc.StatusCode.INVALID_ARGUMENT


async def test_anything_before_open_is_refused(face):
    agent = Agent(face.channel)
    await agent.send(declare=declaring())

    assert await agent.status() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_too_large_for_the_protocol_never_reaches_it(opened):
    await opened.send(declare=declaring(arguments_json=" " * (300 * 1024)))

    assert await opened.status() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert opened.lease.asked == []


def test_the_fake_lease_has_the_shape_of_the_real_one():
    from stepgrant_gateway.app.leasing import TaskLease

    verbs = {name for name in vars(TaskLease) if not name.startswith("_")}
    assert verbs <= {name for name in vars(FakeLease) if not name.startswith("_")}
