"""Opening with an assignment: who, with which words, until when, and how often."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant.selector import Selector
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.boundary import OpenTask, TaskClosed
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.grants import MAX_LINGER
from stepgrant_gateway.core.history import fold
from tests.kit import assigned as fixtures
from tests.kit.assigned import DESK, PURPOSE, assigned, code_of, lease_of, opened_with
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import AGENT, OPERATOR, REFUND, TRIAGE, Heart, heart

ORDER = {"order_id": "ord_00000042"}
STRANGER = "spiffe://dev.stepgrant.test/agent/other"
SECOND = timedelta(seconds=1)


policy, loaded, built = fixtures.policy, fixtures.loaded, fixtures.built


async def test_a_task_is_opened_with_what_a_dispatcher_assigned_and_an_agent_cannot_invent_it(built: Heart) -> None:
    invented = await built.tasks.open(
        built.peer(), OpenTask("Refund", dict(REFUND), PURPOSE, b"k" * 32), built.pushed.append
    )
    assert code_of(invented) is DenialCode.NO_PERMIT
    assert "a dispatcher has to assign" in invented.next
    triage = OpenTask("Triage", {"mailbox": "support"}, PURPOSE, b"k" * 32)
    assert code_of(await built.tasks.open(built.peer(TRIAGE), triage, built.pushed.append)) is DenialCode.NO_PERMIT

    assignment = await assigned(built)
    lease = await lease_of(built)
    await built.granted(lease, "orders.get", ORDER)
    [view] = built.operating.tasks()
    assert (view.vouched_by, view.dispatcher) == ("assignment", DESK)
    events = {event.type: event.data for event in await built.recorded()}
    made, taken = events[EventType.ASSIGNMENT_MADE], events[EventType.TASK_OPENED]
    assert (made["assignment"], made["dispatcher"], made["workload"]) == (assignment, DESK, AGENT)
    assert (taken["assignment"], taken["dispatcher"], taken["vouched_by"]) == (assignment, DESK, "assignment")
    assert events[EventType.STEP_GRANTED]


@pytest.mark.parametrize(
    "more",
    [
        {"ticket": b"x" * 32},
        {"purpose": "something else"},
        {"parameters": {**REFUND, "order_id": "ord_00000043"}},
        {"task_type": "Triage"},
    ],
    ids=["ticket", "purpose", "parameters", "type"],
)
async def test_inv_12_an_assignment_opens_nothing_but_what_it_says(built: Heart, more: dict[str, object]) -> None:
    await assigned(built)
    answer = await opened_with(built, **more)  # type: ignore[arg-type]
    assert code_of(answer) is DenialCode.ASSIGNMENT_REFUSED
    await lease_of(built)


async def test_inv_12_another_workload_gets_the_answer_that_it_would_get_if_there_were_none(built: Heart) -> None:
    await assigned(built)
    theirs = await opened_with(built, peer=built.peer(STRANGER))
    unknown = await opened_with(built, b"x" * 32, peer=built.peer(STRANGER))
    assert code_of(theirs) is DenialCode.ASSIGNMENT_REFUSED
    assert (theirs.reason, theirs.next, theirs.argument) == (unknown.reason, unknown.next, unknown.argument)
    denied = [event.data for event in await built.recorded() if event.type is EventType.TASK_DENIED]
    # The operator sees what the stranger does not.
    assert "was assigned to another workload" in denied[0]["errors"][0]
    assert "is not known" in denied[1]["errors"][0]


async def test_id_14_of_64_openings_with_one_assignment_exactly_one_wins(built: Heart) -> None:
    await assigned(built)
    answers = await asyncio.gather(*(opened_with(built) for _ in range(64)))
    assert sum(isinstance(answer, TaskLease) for answer in answers) == 1
    assert {code_of(answer) for answer in answers if isinstance(answer, Denial)} == {DenialCode.ASSIGNMENT_REFUSED}
    assert len(built.state.tasks) == 1


async def test_an_assignment_that_was_used_stays_used_when_its_task_is_over(built: Heart) -> None:
    await assigned(built)
    lease = await lease_of(built)
    lease.lost("identity_lost", "gone")
    assert code_of(await opened_with(built)) is DenialCode.ASSIGNMENT_REFUSED


async def test_an_opening_that_policy_denies_uses_nothing_up(built: Heart) -> None:
    # The desk may assign to any agent; the policy lets only the support agent open.
    await assigned(built, workload=TRIAGE)
    denied = await opened_with(built, peer=built.peer(TRIAGE))
    assert code_of(denied) is DenialCode.NO_PERMIT
    [kept] = built.state.assignments.values()
    assert kept.state.value == "open"


async def test_an_assignment_is_not_opened_past_its_time_while_its_deadline_waits_for_its_turn(built: Heart) -> None:
    await assigned(built, lives=SECOND)
    [kept] = built.state.assignments.values()
    built.clock.advance(SECOND)
    built.state.keep_assignment(kept)
    assert code_of(await opened_with(built)) is DenialCode.ASSIGNMENT_REFUSED


async def test_an_opening_that_cannot_be_recorded_gives_the_assignment_back(policy: Path) -> None:
    store = FaultyStore()
    async with heart(store, policy) as built:
        assignment = await assigned(built)
        store.block()
        opening = asyncio.ensure_future(opened_with(built))
        await asyncio.to_thread(store.entered.wait, 10)
        # Taken from the moment on in which it was decided, although nothing is durable yet.
        assert built.state.assignments[assignment].state.value == "taken"
        answer = await built.while_time_passes(opening)
        assert code_of(answer) is DenialCode.UNRECORDED
        assert built.state.assignments[assignment].state.value == "open"
        # It becomes durable all the same: then its end is, too, before the next opening, and the fold agrees.
        store.free.set()
        again = await lease_of(built)
        events = await built.recorded()
        closed = [event.data for event in events if event.type is EventType.TASK_CLOSED]
        assert [data["code"] for data in closed] == ["undelivered"]
        folded = fold(events).assignments[assignment]
        assert (folded.state.value, folded.task_id) == ("taken", again.opened.task_id)
        cut = events[: next(i for i, event in enumerate(events) if event.type is EventType.TASK_CLOSED) + 1]
        assert fold(cut).assignments[assignment].state.value == "open"


async def test_a_withdrawal_while_the_task_is_being_opened_ends_it(policy: Path) -> None:
    store = FaultyStore()
    async with heart(store, policy) as built:
        assignment = await assigned(built)
        store.block()
        opening = asyncio.ensure_future(opened_with(built))
        await asyncio.to_thread(store.entered.wait, 10)
        withdrawing = asyncio.ensure_future(built.assigning.withdraw(built.peer(DESK), assignment))
        await asyncio.sleep(0)
        store.free.set()
        await asyncio.gather(opening, withdrawing)
        assert not built.state.tasks
        assert built.state.assignments[assignment].state.value == "withdrawn"
        assert "assignment_withdrawn" in [said.code for said in built.pushed if isinstance(said, TaskClosed)]


async def test_what_is_taken_up_again_is_still_vouched_for_by_its_dispatcher(built: Heart) -> None:
    await assigned(built)
    first = await lease_of(built)
    token = first.resume_token()
    first.lost("stream_lost", "the agent's stream ended")
    built.clock.advance(MAX_LINGER - SECOND)
    # The policy lets in only what was assigned, so this says that it is.
    second = await built.taken(token)
    assert second.opened.task_id == first.opened.task_id
    await built.operating.set_lock(Selector(workload=DESK), "compromised", OPERATOR)
    assert not built.state.tasks
