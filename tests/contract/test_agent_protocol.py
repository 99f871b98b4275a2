"""What every gateway answers on an agent's stream, the scripted one of `stepgrant.testing` and the real one alike.

A further gateway is a name in `KINDS` and a branch in `tests.kit.speakers.speaking`.
"""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from stepgrant._wire import read_answer
from stepgrant.v1 import agent_pb2, types_pb2
from tests.kit.speakers import ARGUMENTS, new_id, raw_agent, speaking

KINDS = ["scripted", "real"]
DONE = types_pb2.OUTCOME_COMPLETED


@pytest.fixture(params=KINDS)
async def agent(request):
    async with speaking(request.param) as speaker, raw_agent(speaker, speaker.identity()) as raw:
        yield raw


@pytest.fixture
async def opened(agent):
    await agent.open()
    return agent


async def test_the_gateway_speaks_first_with_its_own_id_and_a_nonce(agent):
    challenge = await agent.challenged()
    assert challenge.gateway_id == str(agent.speaker.gateway_id)
    assert (len(challenge.nonce), challenge.revision) == (32, 1)


async def test_a_task_is_opened_with_its_bounds_and_its_tools(agent):
    task = await agent.open()
    read_answer(agent_pb2.GatewayMessage(reply_to=1, opened=task))
    assert "orders.get" in [offer.tool for offer in task.tools]
    assert task.limits.live_steps > 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"signature": bytes(64)}, grpc.StatusCode.UNAUTHENTICATED),
        ({"revision": 2}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_an_opening_that_is_not_proven_or_of_another_revision_ends_the_stream(agent, changes, status):
    await agent.challenged()
    await agent.write(agent_pb2.AgentMessage(request=1, open=agent.opening(**changes)))
    assert await agent.status() is status


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"task_type": "Payout"}, "no_permit"),
        ({"parameters_json": '{"order_id":"a","order_id":"b"}'}, "arguments_invalid"),
        ({"parameters_json": "[]"}, "arguments_invalid"),
        ({"assignment": b"t" * 32}, "assignment_refused"),
        ({"task_type": "Payout", "assignment": b"t" * 32}, "assignment_refused"),
        ({"hand_off": b"t" * 32}, "hand_off_refused"),
        ({"task_type": "Payout", "hand_off": b"t" * 32}, "hand_off_refused"),
    ],
)
async def test_an_opening_that_is_denied_is_a_value_without_a_step_and_the_end(agent, changes, code):
    await agent.challenged()
    answer = await agent.say(open=agent.opening(**changes))
    assert (answer.reply_to, answer.denied.code, answer.denied.step_id) == (1, code, "")
    read_answer(answer)
    assert await agent.status() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    "message",
    [
        agent_pb2.AgentMessage(request=1, close=agent_pb2.Close(outcome=DONE)),
        agent_pb2.AgentMessage(request=1),
        agent_pb2.AgentMessage(request=2, open=agent_pb2.Open(revision=1)),
        agent_pb2.AgentMessage.FromString(
            agent_pb2.AgentMessage(request=1, open=agent_pb2.Open(revision=1)).SerializeToString() + b"\x98\x06\x01"
        ),
    ],
    ids=["not Open", "nothing", "number 2", "unknown field"],
)
async def test_inv_11_a_first_message_that_is_not_an_open_ends_the_stream(agent, message):
    await agent.challenged()
    await agent.write(message)
    assert await agent.status() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "message",
    [
        agent_pb2.AgentMessage(request=3, declare=agent_pb2.Declare()),
        agent_pb2.AgentMessage(request=2, open=agent_pb2.Open(revision=1)),
        agent_pb2.AgentMessage(request=2, close=agent_pb2.Close()),
        agent_pb2.AgentMessage(request=2, declare=agent_pb2.Declare(step_id="x", tool="orders.get")),
        agent_pb2.AgentMessage(request=2, report=agent_pb2.Report(step_id=new_id(), outcome=DONE)),
        agent_pb2.AgentMessage(request=2, renew=agent_pb2.Renew(step_id=new_id())),
    ],
    ids=["a gap", "Open again", "no outcome", "not a ULID", "report of nothing", "renewal of nothing"],
)
async def test_inv_11_a_message_that_the_protocol_does_not_allow_ends_the_stream(opened, message):
    await opened.write(message)
    assert await opened.status() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_grant_says_everything_that_its_holder_needs(opened):
    step = new_id()
    answer = await opened.declare(step)
    number, grant = read_answer(answer)
    assert (number, grant.step_id) == (2, step)
    assert grant.token.count(".") == 2


async def test_sm_05_the_same_declaration_again_is_the_same_grant(opened):
    step = new_id()
    first = await opened.declare(step)
    again = await opened.declare(step)
    assert (again.reply_to, again.granted.grant) == (3, first.granted.grant)


async def test_sm_05_the_same_id_for_another_intent_ends_the_stream(opened):
    step = new_id()
    await opened.declare(step)
    declare = agent_pb2.Declare(step_id=step, tool="orders.get", arguments_json='{"order_id":"ord_00000043"}')
    await opened.write(agent_pb2.AgentMessage(request=3, declare=declare))
    assert await opened.status() is grpc.StatusCode.ALREADY_EXISTS


async def test_inv_12_a_denial_is_a_value_and_the_stream_goes_on(opened):
    step = new_id()
    answer = await opened.declare(step, "orders.refund", '{"amount":40,"order_id":"ord_00000042"}')
    _, denial = read_answer(answer)
    assert (answer.denied.code, answer.denied.step_id) == ("no_permit", step)
    assert denial.decision_id
    assert (await opened.declare(new_id())).WhichOneof("message") == "granted"


async def test_inv_2_an_unknown_tool_is_no_permit(opened):
    assert (await opened.declare(new_id(), "orders.burn")).denied.code == "no_permit"


@pytest.mark.parametrize("arguments", ["", "[]", '{"order_id":1e400}', '{"a":1,"a":1}', '{"order_id":"\\ud800"}'])
async def test_arguments_that_are_not_strict_json_are_denied_as_invalid(opened, arguments):
    step = new_id()
    denied = (await opened.declare(step, arguments=arguments)).denied
    assert (denied.code, denied.step_id) == ("arguments_invalid", step)


async def test_inv_5_a_step_ends_once_and_a_late_report_changes_nothing(opened):
    step = new_id()
    await opened.declare(step)
    first = await opened.say(report=agent_pb2.Report(step_id=step, outcome=DONE))
    assert (first.settled.state, first.settled.late) == ("completed", False)
    failed = agent_pb2.Report(step_id=step, outcome=types_pb2.OUTCOME_FAILED, error_class="ValueError")
    again = await opened.say(report=failed)
    assert (again.settled.state, again.settled.late) == ("completed", True)


async def test_inv_6_a_renewal_is_another_grant_of_the_same_step(opened):
    step = new_id()
    first = (await opened.declare(step)).granted
    renewed = (await opened.say(renew=agent_pb2.Renew(step_id=step))).granted
    assert renewed.step_id == step
    assert renewed.grant_id != first.grant_id


async def test_tk_13_a_step_that_has_ended_is_not_renewed(opened):
    step = new_id()
    await opened.declare(step)
    await opened.say(report=agent_pb2.Report(step_id=step, outcome=DONE))
    assert (await opened.say(renew=agent_pb2.Renew(step_id=step))).denied.code == "step_ended"


async def test_a_child_of_a_step_that_has_ended_is_denied(opened):
    parent = new_id()
    await opened.declare(parent)
    await opened.say(report=agent_pb2.Report(step_id=parent, outcome=DONE))
    assert (await opened.declare(new_id(), parent_step_id=parent)).denied.code == "parent_ended"


async def test_a_step_that_is_ended_against_the_agents_will_is_pushed_and_stays_ended(opened):
    step = new_id()
    await opened.declare(step)
    await opened.speaker.end(step)
    pushed = await opened.hear()
    number, ended = read_answer(pushed)
    assert (number, ended.step_id, ended.state, ended.code) == (0, step, "revoked", "locked")
    late = await opened.say(report=agent_pb2.Report(step_id=step, outcome=DONE))
    assert (late.settled.state, late.settled.late) == ("revoked", True)


async def test_a_task_closes_when_the_agent_says_so(opened):
    answer = await opened.say(close=agent_pb2.Close(outcome=DONE))
    assert (answer.reply_to, answer.closed.code) == (2, "closed")
    assert await opened.status() is grpc.StatusCode.OK


@pytest.fixture(params=KINDS)
async def speaker(request):
    async with speaking(request.param) as speaker:
        yield speaker


async def test_a_task_is_taken_over_with_its_live_steps_and_the_old_stream_closes(speaker):
    identity = speaker.identity()
    async with raw_agent(speaker, identity) as old, raw_agent(speaker, identity, old.key) as new:
        first, step = await old.open(), new_id()
        await old.declare(step)
        second = await new.open(resume_token=first.resume_token)
        assert (second.task_id, list(second.live_steps)) == (first.task_id, [step])
        read_answer(agent_pb2.GatewayMessage(reply_to=1, opened=second))
        assert (await old.hear()).closed.code == "taken_over"
        assert await old.status() is grpc.StatusCode.OK
        settled = (await new.say(report=agent_pb2.Report(step_id=step, outcome=DONE))).settled
        assert (settled.state, settled.late) == ("completed", False)


async def test_what_is_asked_on_a_stream_that_was_taken_over_is_not_acted_upon(speaker):
    identity = speaker.identity()
    async with raw_agent(speaker, identity) as old, raw_agent(speaker, identity, old.key) as new:
        token, step = (await old.open()).resume_token, new_id()
        await old.declare(step)
        await new.open(resume_token=token)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            failed = agent_pb2.Report(step_id=step, outcome=types_pb2.OUTCOME_FAILED)
            await old.write(agent_pb2.AgentMessage(request=3, report=failed))
        await old.status()
        assert (await new.say(report=agent_pb2.Report(step_id=step, outcome=DONE))).settled.state == "completed"


async def test_a_task_whose_stream_was_lost_is_taken_up_and_its_steps_have_ended(speaker):
    identity = speaker.identity()
    async with raw_agent(speaker, identity) as lost, raw_agent(speaker, identity, lost.key) as new:
        first, step = await lost.open(), new_id()
        await lost.declare(step)
        await lost.hang_up()
        await speaker.until_lost(first.task_id)
        second = await new.open(resume_token=first.resume_token)
        assert (second.task_id, list(second.live_steps)) == (first.task_id, [])
        assert second.resume_token != first.resume_token
        assert (await new.say(renew=agent_pb2.Renew(step_id=step))).denied.code == "step_ended"
        assert (await new.declare(new_id())).WhichOneof("message") == "granted"


@pytest.mark.parametrize("wrong", ["token", "used", "instance key", "workload", "parameters", "closed"])
async def test_sm_03_nobody_else_takes_a_task_up_and_the_answer_says_nothing(speaker, wrong):
    identity, other = speaker.identity(), speaker.identity("agent/other" if wrong == "workload" else "agent/support")
    async with raw_agent(speaker, identity) as old:
        token = (await old.open()).resume_token
        if wrong == "used":
            async with raw_agent(speaker, identity, old.key) as taker:
                await taker.open(resume_token=token)
        if wrong == "closed":
            await old.say(close=agent_pb2.Close(outcome=DONE))
        key = None if wrong == "instance key" else old.key
        async with raw_agent(speaker, other, key) as thief:
            await thief.challenged()
            changes = {"parameters": {"parameters_json": '{"customer":"eve@x.org","order_id":"ord_00000042"}'}}
            given = bytes(32) if wrong == "token" else token
            answer = await thief.say(open=thief.opening(resume_token=given, **changes.get(wrong, {})))
            assert answer.denied.code == "resume_refused"
            read_answer(answer)
            assert await thief.status() is grpc.StatusCode.OK


async def test_sm_03_of_two_who_take_a_task_up_at_once_one_has_it(speaker):
    identity = speaker.identity()
    async with contextlib.AsyncExitStack() as stack:
        old = await stack.enter_async_context(raw_agent(speaker, identity))
        token = (await old.open()).resume_token
        takers = [await stack.enter_async_context(raw_agent(speaker, identity, old.key)) for _ in range(4)]
        for taker in takers:
            await taker.challenged()
        answers = await asyncio.gather(*(one.say(open=one.opening(resume_token=token)) for one in takers))
        said = sorted(answer.WhichOneof("message") for answer in answers)
        assert said == ["denied", "denied", "denied", "opened"]


@pytest.mark.parametrize(
    "changes",
    [
        {"resume_token": b"short"},
        {"assignment": b"short"},
        {"hand_off": b"short"},
        {"resume_token": b"r" * 32, "assignment": b"t" * 32},
        {"resume_token": b"r" * 32, "hand_off": b"t" * 32},
        {"assignment": b"t" * 32, "hand_off": b"t" * 32},
        {"subject_token": "a.b.c", "hand_off": b"t" * 32},
    ],
)
async def test_a_token_or_ticket_of_another_size_or_both_are_refused(speaker, changes):
    async with raw_agent(speaker, speaker.identity()) as agent:
        await agent.challenged()
        await agent.write(agent_pb2.AgentMessage(request=1, open=agent.opening(**changes)))
        assert await agent.status() is grpc.StatusCode.INVALID_ARGUMENT


BOUNDARIES = ["opened", "declared", "granted", "renewing", "reporting", "settled"]


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_sm_03_whatever_was_said_last_a_client_that_is_gone_leaves_no_live_step(speaker, boundary):
    """And its task goes on only for who has its identity, its key and its token."""
    identity, step = speaker.identity(), new_id()
    declare = agent_pb2.Declare(step_id=step, tool="orders.get", arguments_json=ARGUMENTS)
    report = agent_pb2.Report(step_id=step, outcome=DONE)
    async with raw_agent(speaker, identity) as gone:
        opened = await gone.open()
        token = opened.resume_token
        match BOUNDARIES.index(boundary):
            case 1:
                await gone.write(agent_pb2.AgentMessage(request=2, declare=declare))
            case later if later > 1:
                assert (await gone.say(declare=declare)).WhichOneof("message") == "granted"
        match boundary:
            case "renewing":
                await gone.write(agent_pb2.AgentMessage(request=3, renew=agent_pb2.Renew(step_id=step)))
            case "reporting":
                await gone.write(agent_pb2.AgentMessage(request=3, report=report))
            case "settled":
                await gone.say(report=report)
        await gone.hang_up()
        async with raw_agent(speaker, identity) as other_instance:
            await other_instance.challenged()
            answer = await other_instance.say(open=other_instance.opening(resume_token=token))
            assert answer.denied.code == "resume_refused"
        async with raw_agent(speaker, identity, gone.key) as same:
            await speaker.until_lost(opened.task_id)
            assert list((await same.open(resume_token=token)).live_steps) == []
            again = await same.say(declare=declare)
            fresh = boundary in {"opened", "declared"}
            assert again.WhichOneof("message") == "denied" or fresh
