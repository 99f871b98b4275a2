"""Group D of the fault matrix at the agent's and the resource's face: the real application behind the real protocol."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import grpc
import pytest

from stepgrant.errors import TaskClosedError
from stepgrant.selector import Selector
from stepgrant.v1 import agent_pb2, types_pb2, verifier_pb2
from stepgrant_gateway.core.boundary import Outcome, ReportStep, StepGranted
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import decode_event
from stepgrant_gateway.rpc.status import status_of
from tests.kit.agent import WAIT, Agent, declaring, opening
from tests.kit.desk import PARAMETERS, Conversation, desk
from tests.kit.face import STEP
from tests.kit.heart import OPERATOR, ORDERS, Heart, heart
from tests.kit.loop import settled

DONE, FAILED = types_pb2.OUTCOME_COMPLETED, types_pb2.OUTCOME_FAILED
REPORT = (Outcome.COMPLETED, None, "")
EVENTS = ("declare", "declare other", "declare child", "renew", "complete", "fail", "redeem", "attest")
OVER = ("step_ended", "ends ALREADY_EXISTS", "parent_ended", "step_ended")
ENDS = "ends INVALID_ARGUMENT"
TABLE = {
    "unknown":   ("granted", "granted", "parent_ended", ENDS, ENDS, ENDS, "unknown_grant", "NOT_FOUND"),
    "declared":  ("waits, the same grant", "ends ALREADY_EXISTS", "waits, outside_envelope", "limit_exceeded",
                  "completed", "failed", "unknown_grant", "NOT_FOUND"),
    "granted":   ("the same grant", "ends ALREADY_EXISTS", "outside_envelope", "granted", "completed", "failed",
                  "taken", "witnessed"),
    "denied":    ("no_permit", "ends ALREADY_EXISTS", "parent_ended", "step_ended", "late denied", "late denied",
                  "unknown_grant", "NOT_FOUND"),
    "completed": (*OVER, "late completed", "late completed", "revoked", "witnessed late"),
    "failed":    (*OVER, "late failed", "late failed", "revoked", "witnessed late"),
    "expired":   (*OVER, "late expired", "late expired", "expired", "witnessed late"),
    "revoked":   ("locked", "ends ALREADY_EXISTS", "parent_ended", "locked", "late revoked", "late revoked",
                  "revoked", "witnessed late"),
    "abandoned": (*("ends OK",) * 6, "revoked", "witnessed late"),
}  # fmt: skip
"""What each event comes to in each state. AWAITING_APPROVAL is not built; no message leads there."""
MOVES = ("granted", "completed", "failed", "taken", "waits")
"""How answers begin that something has come of. Another one has changed nothing, but that with a stream its task ends."""


async def brought_to(state: str, chat: Conversation) -> None:
    """The step of the conversation is in that state."""
    built, store = chat.desk.built, chat.desk.store
    if state == "unknown":
        return
    if state == "declared":
        store.block()
        await chat.say(declare=declaring(chat.step))
        assert await asyncio.to_thread(store.entered.wait, WAIT)
        return
    order = "ord_00000043" if state == "denied" else "ord_00000042"
    tool = "orders.refund" if state == "denied" else "orders.get"
    arguments = f'{{"order_id":"{order}"' + (',"amount":1}' if state == "denied" else "}")
    await chat.ask(declare=declaring(chat.step, tool=tool, arguments_json=arguments))
    match state:
        case "completed" | "failed":
            await chat.ask(report=agent_pb2.Report(step_id=chat.step, outcome=DONE if state == "completed" else FAILED))
        case "expired":
            built.clock.advance(timedelta(seconds=31))
        case "revoked":
            await built.operating.set_lock(Selector(tool="orders.get"), "An incident.", OPERATOR)
        case "abandoned":
            await chat.say(close=agent_pb2.Close(outcome=DONE))
            await settled(lambda: chat.task_id not in built.state.tasks)


async def meet(event: str, state: str, chat: Conversation) -> str:
    """What comes of the event."""
    denied = {"tool": "orders.refund", "arguments_json": '{"order_id":"ord_00000043","amount":1}'}
    same = declaring(chat.step, **(denied if state == "denied" else {}))
    messages: dict[str, dict[str, Any]] = {
        "declare": {"declare": same},
        "declare other": {"declare": declaring(chat.step, arguments_json='{"order_id":"ord_00000044"}')},
        "declare child": {"declare": declaring(chat.desk.new_id(), parent_step_id=chat.step)},
        "renew": {"renew": agent_pb2.Renew(step_id=chat.step)},
        "complete": {"report": agent_pb2.Report(step_id=chat.step, outcome=DONE)},
        "fail": {"report": agent_pb2.Report(step_id=chat.step, outcome=FAILED, error_class="ValueError")},
    }
    if event in messages:
        if state == "abandoned":
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc._cython.cygrpc.ExecuteBatchError):
                await chat.say(**messages[event])  # It crosses the end, which nobody has read yet.
            return f"ends {(await chat.agent.status()).name}"
        if state == "declared" and event in {"declare", "declare child"}:
            number = await chat.say(**messages[event])
            assert await chat.ask(**messages["renew"]) == "limit_exceeded"
            chat.desk.store.free.set()
            assert await chat.answer(2) == "granted"
            return f"waits, {await chat.answer(number)}"
        return await chat.ask(**messages[event])
    verifier = chat.desk.verifier()
    try:
        if event == "redeem":
            held = chat.desk.built.state.grants.items()
            known = next((grant for grant, step in held if step.key == (chat.task_id, chat.step)), chat.desk.new_id())
            one = verifier_pb2.RedeemRequest(audience=ORDERS, grant_id=known, redemption_id=chat.desk.new_id())
            redeemed = await verifier.Redeem(one)
            return "taken" if redeemed.accepted else redeemed.code
        known = chat.grant or chat.desk.new_id()
        attested = await verifier.Attest(verifier_pb2.AttestRequest(audience=ORDERS, grant_id=known, outcome=DONE))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "witnessed late" if attested.late else "witnessed"


def test_sm_01_the_table_answers_every_event_in_every_state() -> None:
    assert {len(answers) for answers in TABLE.values()} == {len(EVENTS)}


@pytest.mark.parametrize("state", TABLE)
async def test_sm_01_every_event_in_every_state_gets_its_answer_and_what_is_refused_changes_nothing(state: str) -> None:
    found, changed = [], []
    async with desk() as scene:
        for event in EVENTS:
            chat = await scene.open()
            await brought_to(state, chat)
            before = chat.fingerprint()
            answer = await meet(event, state, chat)
            found.append(answer)
            after = chat.fingerprint()
            if answer.startswith("ends"):
                assert chat.task_id not in scene.built.state.tasks, event
            elif not answer.startswith(MOVES) and after != before:
                changed.append((event, before, after))
            scene.store.free.set()
            for lock in scene.built.operating.locks():
                await scene.built.operating.lift_lock(lock.lock_id, "over", OPERATOR)
    assert tuple(found) == TABLE[state]
    assert changed == []


async def test_sm_01_nothing_is_asked_of_a_task_that_is_over() -> None:
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        lease.close(Outcome.COMPLETED)
        again = built.intent("orders.get", {"order_id": "ord_00000042"}, step_id=step.step_id)
        report = ReportStep(step.step_id, *REPORT)
        for ask in (lambda: lease.declare(again), lambda: lease.renew(step.step_id), lambda: lease.report(report)):
            with pytest.raises(TaskClosedError) as refused:
                await ask()
            assert status_of(refused.value)[0] is grpc.StatusCode.FAILED_PRECONDITION


FRAMES: dict[str, tuple[dict[str, Any], str, str]] = {
    "declare": ({"declare": declaring(STEP)}, "the same grant", "granted"),
    "declare other": (
        {"declare": declaring(STEP, arguments_json='{"order_id":"ord_00000044"}')}, "ends ALREADY_EXISTS", "granted",
    ),
    "renew": ({"renew": agent_pb2.Renew(step_id=STEP)}, "granted", "ends INVALID_ARGUMENT"),
    "report": ({"report": agent_pb2.Report(step_id=STEP, outcome=DONE)}, "completed", "ends INVALID_ARGUMENT"),
    "report other": ({"report": agent_pb2.Report(step_id=STEP, outcome=FAILED)}, "failed", "ends INVALID_ARGUMENT"),
    "open": ({"open": agent_pb2.Open(revision=1)}, "ends INVALID_ARGUMENT", "ends INVALID_ARGUMENT"),
}  # fmt: skip
"""Each kind of frame; what it comes to after the step was declared, and what before."""


@pytest.mark.parametrize("frame", FRAMES)
async def test_sm_05_a_frame_again_under_the_next_number_gives_no_second_grant(frame: str) -> None:
    message, first, _ = FRAMES[frame]
    async with desk() as scene:
        chat = await scene.open()
        assert await chat.ask(declare=declaring(STEP)) == "granted"
        assert await chat.ask(**message) == first
        if not first.startswith("ends"):
            again = {"completed": "late completed", "failed": "late failed"}.get(first, first)
            assert await chat.ask(**message) == again
        assert len(scene.events(EventType.STEP_GRANTED)) == 1
        task = scene.built.state.tasks.get(chat.task_id)
        assert task is None or len(task.live) <= 1


@pytest.mark.parametrize("frame", FRAMES)
async def test_sm_05_a_frame_before_the_one_it_follows_is_refused_or_stands_for_itself(frame: str) -> None:
    message, _, early = FRAMES[frame]
    async with desk() as scene:
        chat = await scene.open()
        assert await chat.ask(**message) == early
        assert len(scene.events(EventType.STEP_GRANTED)) == (early == "granted")


@pytest.mark.parametrize("number", [1, 2, 4, 2**64 - 1])
async def test_sm_05_a_frame_under_a_number_that_was_or_that_skips_ends_the_stream(number: int) -> None:
    async with desk() as scene:
        chat = await scene.open()
        await chat.ask(declare=declaring(STEP))
        await chat.agent.call.write(agent_pb2.AgentMessage(request=number, declare=declaring(scene.new_id())))
        assert await chat.agent.status() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(scene.events(EventType.STEP_GRANTED)) == 1
        assert chat.task_id not in scene.built.state.tasks


async def test_sm_05_the_frames_of_another_stream_open_nothing() -> None:
    """What was written down on the way is no good anywhere else: the opening is proven for its own nonce."""
    async with desk() as scene:
        first, second = Agent(scene.channel), Agent(scene.channel)
        nonce = (await first.read()).challenge.nonce
        written_down = opening(nonce, certificate=scene.built.peer().credential_sha256, parameters_json=PARAMETERS)
        await first.send(open=written_down)
        assert (await first.read()).opened.task_id
        await second.read()
        await second.send(open=written_down)
        assert await second.status() is grpc.StatusCode.UNAUTHENTICATED
        assert len(scene.events(EventType.TASK_OPENED)) == 1


async def test_sm_05_a_redemption_again_is_the_same_use_and_an_attestation_again_moves_nothing() -> None:
    async with desk() as scene:
        chat = await scene.open()
        await chat.ask(declare=declaring(STEP))
        verifier = scene.verifier()
        one = verifier_pb2.RedeemRequest(audience=ORDERS, grant_id=chat.grant, redemption_id=scene.new_id())
        answers = await asyncio.gather(*(verifier.Redeem(one) for _ in range(8)))
        assert {(answer.accepted, answer.remaining_uses) for answer in answers} == {(True, 0)}
        other = verifier_pb2.RedeemRequest(audience=ORDERS, grant_id=chat.grant, redemption_id=scene.new_id())
        assert (await verifier.Redeem(other)).code == "used_up"
        before = chat.fingerprint()
        said = verifier_pb2.AttestRequest(audience=ORDERS, grant_id=chat.grant, outcome=DONE)
        assert [(await verifier.Attest(said)).late for _ in range(3)] == [False] * 3
        assert chat.fingerprint() == before
        assert len(scene.events(EventType.GRANT_REDEEMED)) == 1


async def test_sm_07_a_task_opened_again_and_its_step_declared_again_have_nothing_of_the_old_ones() -> None:
    async with heart() as built:
        intent = built.intent("orders.get", {"order_id": "ord_00000042"})
        first = await built.open()
        old = await first.declare(intent)
        first.close(Outcome.COMPLETED)
        second = await built.open()
        new = await second.declare(intent)
        assert isinstance(old, StepGranted)
        assert isinstance(new, StepGranted)
        assert first.opened.task_id != second.opened.task_id
        assert (old.step_id, old.grant_id == new.grant_id) == (new.step_id, False)

        dead = await built.redeeming.redeem(ORDERS, ORDERS, old.grant_id, built.entropy(1).hex() + "0" * 24)
        assert (dead.accepted, dead.code) == (False, "revoked")
        assert built.feed.revoked(old.grant_id) is not None
        assert built.feed.revoked(new.grant_id) is None
        assert (await built.redeeming.redeem(ORDERS, ORDERS, new.grant_id, "0" * 26)).accepted


async def test_sm_07_a_step_id_that_two_tasks_use_is_two_steps_with_grants_and_sums_of_their_own() -> None:
    async with heart() as built:
        mail = {"to": ["jo@x.org"], "subject": "s", "body": "b"}
        intent = built.intent("mail.send", mail)
        leases = [await built.open() for _ in range(3)]
        grants = [await lease.declare(intent) for lease in leases]
        assert all(isinstance(grant, StepGranted) for grant in grants)
        leases[0].close(Outcome.COMPLETED)
        live = [len(built.state.tasks[lease.opened.task_id].live) for lease in leases[1:]]
        assert (live, leases[0].opened.task_id in built.state.tasks) == ([1, 1], False)
        task = built.state.tasks[leases[1].opened.task_id]
        others = built.state.book(task, "mails").spent(built.clock.now(), task.shared.steps[intent.step_id].key)
        assert others == len(grants) - 1


async def test_sm_07_a_lock_set_again_is_another_one_and_what_the_first_ended_stays_ended() -> None:
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        locks = []
        for _ in range(2):
            locked = await built.operating.set_lock(Selector(tool="orders.get"), "An incident.", OPERATOR)
            locks.append((locked.lock.lock_id, locked.ended_steps))
            await built.operating.lift_lock(locked.lock.lock_id, "over", OPERATOR)
        assert [ended for _, ended in locks] == [1, 0]
        assert len({lock for lock, _ in locks}) == 2
        assert built.state.grants[step.grant_id].code == "locked"
        answer = await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, "0" * 26)
        assert (answer.accepted, answer.code) == (False, "revoked")


async def test_sm_08_with_a_parent_its_children_end_first_and_siblings_stay() -> None:
    order = {"order_id": "ord_00000042"}
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        parent = await built.granted(lease, "orders.refund", {**order, "amount": 40})
        children = [await built.granted(lease, "orders.get", order, parent=parent.step_id) for _ in range(3)]
        beside = await built.granted(lease, "orders.search", {"query": "shoes"})
        lease.report(ReportStep(parent.step_id, *REPORT))
        await built.journal.record_end().durable()

        ended = [event.data for event in events(built, EventType.STEP_ENDED)][1:]
        assert [data["step"] for data in ended] == [*(child.step_id for child in children), parent.step_id]
        assert {data["code"] for data in ended[:-1]} == {"parent_ended"}
        assert list(built.state.tasks[lease.opened.task_id].live) == [beside.step_id]
        for grant in (parent, *children):
            assert built.feed.revoked(grant.grant_id) is not None
        assert built.feed.revoked(beside.grant_id) is None


async def test_sm_08_a_siblings_grant_takes_the_siblings_use_and_dies_with_the_sibling() -> None:
    """Two steps with the very same call: nothing but the id of the grant tells them apart, and it does."""
    async with heart() as built:
        lease = await built.open()
        one, other = [await built.granted(lease, "orders.get", {"order_id": "ord_00000042"}) for _ in range(2)]
        assert (await built.redeeming.redeem(ORDERS, ORDERS, one.grant_id, "0" * 26)).accepted
        assert (await built.redeeming.redeem(ORDERS, ORDERS, one.grant_id, "0" * 25 + "1")).code == "used_up"
        lease.report(ReportStep(one.step_id, *REPORT))
        assert built.feed.revoked(one.grant_id) is not None
        assert built.feed.revoked(other.grant_id) is None
        assert (await built.redeeming.redeem(ORDERS, ORDERS, other.grant_id, "0" * 26)).accepted


def events(built: Heart, *kinds: EventType) -> list[Event]:
    """What is in the ledger, oldest first."""
    records = built.store.read(built.instance, 0, 100_000)
    return [event for event in (decode_event(record.body) for record in records) if event.type in kinds]
