"""One workload that asks too much is told when to come back; nobody else notices. On the injected clock, over gRPC."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest

from stepgrant.ids import ulid
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1 import agent_pb2, operator_pb2, operator_pb2_grpc, types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.rpc.limits import MAX_TAILS_PER_IDENTITY, MAX_TASKS_PER_IDENTITY, MAX_WATCHES_PER_IDENTITY
from stepgrant_gateway.rpc.quotas import ERRANDS, PLACES, RATES, Errand, Quotas
from stepgrant_gateway.rpc.status import ERROR_CODE_KEY, RETRY_AFTER_KEY, OverloadedError
from tests.kit.agent import Agent, declaring
from tests.kit.clock import START, ManualClock
from tests.kit.face import AGENT, GRANT, STEP, Face, serving
from tests.unit.gateway.rpc.test_interceptor import METHODS, status_of

ME = str(AGENT.spiffe_id)
QUIET = Peer(parse_spiffe_id("spiffe://acme.org/agent/quiet"), "x509", AGENT.not_after, AGENT.credential_sha256)
PERFORM = "/stepgrant.v1.AgentGateway/PerformTask"
WATCH = "/stepgrant.v1.GrantVerifier/Watch"
TAIL = "/stepgrant.v1.Operator/TailLedger"


def path(method) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def exhaust(quotas: Quotas, errand: Errand, identity: str = ME) -> timedelta:
    """Takes all that this identity may take now; says how long it has to wait."""
    for _ in range(RATES[errand].burst + 1):
        wait = quotas.wait(errand, identity)
    assert wait is not None
    return wait


async def opens(channel: grpc.aio.Channel) -> bool:
    """True if a task can be opened now."""
    try:
        return bool((await Agent(channel).open()).opened.task_id)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False


@pytest.fixture
async def face():
    face = Face()
    async with serving(face) as channel:
        face.channel = channel
        yield face


def test_every_method_of_the_protocol_has_its_errand_and_every_errand_its_rate():
    assert set(ERRANDS) == {path(method) for method in METHODS}
    assert set(RATES) == set(Errand)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_who_asks_too_often_is_told_so_at_every_method_before_anything_is_looked_at(face, method):
    """INV-11: what a gateway does for one workload has a bound, and its refusal says when to come back."""
    wait = exhaust(face.quotas, ERRANDS[path(method)])

    code, details = await status_of(face.channel, method)

    assert (code, details.partition(":")[0]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
    assert wait >= timedelta(milliseconds=1)
    assert (face.tasks.requests, face.redeeming.asked, face.denied) == ([], [], [])


async def test_the_time_to_come_back_is_in_the_trailing_metadata_and_holds(face):
    stub = verifier_pb2_grpc.GrantVerifierStub(face.channel)
    request = verifier_pb2.RedeemRequest(audience="mine", grant_id=GRANT, redemption_id=STEP)
    exhaust(face.quotas, Errand.ENFORCE)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Redeem(request)
    trailing = dict(error.value.trailing_metadata())
    face.clock.advance(timedelta(milliseconds=int(trailing[RETRY_AFTER_KEY])))

    assert trailing[ERROR_CODE_KEY] == "overloaded"
    assert (await stub.Redeem(request)).accepted


async def test_a_workload_that_declares_too_fast_is_denied_with_a_time_and_keeps_its_stream(face):
    """INV-11: no argument is parsed and nothing is decided for a Declare beyond the rate."""
    agent = Agent(face.channel)
    await agent.open()
    wait = exhaust(face.quotas, Errand.DECLARE)

    await agent.send(declare=declaring(arguments_json="not even JSON"))
    denied = (await agent.read()).denied
    await agent.send(renew=agent_pb2.Renew(step_id=STEP))
    renewal = (await agent.read()).denied

    assert (denied.code, denied.step_id, denied.retry_after_ms) == (
        "overloaded",
        STEP,
        wait // timedelta(milliseconds=1),
    )
    assert renewal.code == "overloaded"
    assert face.tasks.leases[0].asked == []
    face.clock.advance(timedelta(milliseconds=denied.retry_after_ms))
    await agent.send(declare=declaring())
    assert (await agent.read()).granted.step_id == STEP


async def test_a_report_is_never_refused_for_its_rate(face):
    """INV-05: ends do not wait."""
    agent = Agent(face.channel)
    await agent.open()
    for errand in Errand:
        exhaust(face.quotas, errand)

    await agent.send(report=agent_pb2.Report(step_id=STEP, outcome=types_pb2.OUTCOME_COMPLETED))

    assert (await agent.read()).settled.step_id == STEP


async def test_ds_02_one_noisy_agent_costs_the_others_nothing(face):
    noisy = Agent(face.channel)
    await noisy.open()
    face.peer = QUIET
    quiet = Agent(face.channel)
    opened = await quiet.open()
    for errand in Errand:
        exhaust(face.quotas, errand, ME)

    grants = 0
    for number in range(RATES[Errand.DECLARE].burst // 10):
        step_id = ulid(START, number.to_bytes(10, "big"))
        await noisy.send(declare=declaring(step_id))
        await quiet.send(declare=declaring(step_id))
        grants += (await quiet.read()).granted.step_id == step_id
    refusals = [(await noisy.read()).denied for _ in range(2)]

    assert opened.opened.task_id
    assert grants == RATES[Errand.DECLARE].burst // 10
    assert {refused.code for refused in refusals} == {"overloaded"}
    # What else it asked for is read when it may ask again.
    face.clock.advance(timedelta(milliseconds=refusals[-1].retry_after_ms))
    assert (await noisy.read()).granted.step_id
    another = Agent(face.channel)
    assert (await another.open()).opened.task_id


async def test_a_console_that_polls_does_not_keep_its_operator_from_locking(face):
    """INV-07: a lock is looked at, whatever else its operator asks."""
    exhaust(face.quotas, Errand.OPERATE)
    stub = operator_pb2_grpc.OperatorStub(face.channel)
    with pytest.raises(grpc.aio.AioRpcError) as polled:
        await stub.ListTasks(operator_pb2.ListTasksRequest())
    with pytest.raises(grpc.aio.AioRpcError) as locked:
        await stub.SetLock(operator_pb2.SetLockRequest())

    assert polled.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert locked.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("method", "errand", "most"),
    [
        (PERFORM, Errand.OPEN, MAX_TASKS_PER_IDENTITY),
        (WATCH, Errand.WATCH, MAX_WATCHES_PER_IDENTITY),
        (TAIL, Errand.TAIL, MAX_TAILS_PER_IDENTITY),
    ],
)
def test_ds_01_one_identity_has_so_many_calls_open_and_no_more(method, errand, most):
    """INV-11: one workload never takes all the tasks, watches and tails of a gateway."""
    clock = ManualClock()
    quotas = Quotas(clock)
    held = []
    for _ in range(most):
        clock.advance(timedelta(seconds=1))
        held.append(quotas.admitted(method, ME))
        held[-1].__enter__()
    clock.advance(timedelta(hours=1))

    with pytest.raises(OverloadedError) as refused, quotas.admitted(method, ME):
        pass
    with quotas.admitted(method, str(QUIET.spiffe_id)):
        pass
    held.pop().__exit__(None, None, None)
    with quotas.admitted(method, ME):
        pass

    assert (PLACES[errand], refused.value.retry_after) == (most, timedelta(seconds=1))


@pytest.mark.parametrize("how", ["close", "cancel", "refused"])
async def test_a_place_comes_free_with_the_end_of_its_call_however_it_ends(how):
    face = Face()
    face.quotas._places = {Errand.OPEN: 1, Errand.WATCH: 1}
    async with serving(face) as channel:
        first = Agent(channel)
        if how == "refused":
            await first.read()
            await first.send(renew=agent_pb2.Renew(step_id=STEP))
            assert await first.status() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            await first.open()
            assert await Agent(channel).status() is grpc.StatusCode.RESOURCE_EXHAUSTED
        if how == "close":
            await first.call.done_writing()
            assert await first.at_end()
        elif how == "cancel":
            first.call.cancel()
            await asyncio.wait_for(face.tasks.leases[0].ended, 5)
        async with asyncio.timeout(5) as patience:
            while not await opens(channel):
                # gRPC can take the cancellation for its own call's, and then nobody else hears of it.
                assert not patience.expired()
