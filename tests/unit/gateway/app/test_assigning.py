"""Assignments: who may make them, who may open with them, how often, for how long, and what ends them."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import DenialCode, InvalidInputError
from stepgrant.selector import Selector
from stepgrant_gateway.app import assigning
from stepgrant_gateway.app.assigning import Assigning
from stepgrant_gateway.app.restoring import restore
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.assignments import LONGEST_ASSIGNMENT
from stepgrant_gateway.core.boundary import Assigned, TaskClosed, Withdrawn
from stepgrant_gateway.core.errors import AssignmentExistsError, NotFoundError
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.core.snapshot import decode_snapshot, encode_snapshot
from tests.kit import assigned as fixtures
from tests.kit.assigned import (
    DESK,
    PURPOSE,
    TICKET,
    assign_task,
    assigned,
    code_of,
    lease_of,
    opened_with,
)
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import AGENT, OPERATOR, REFUND, TRIAGE, Heart, heart

ORDER = {"order_id": "ord_00000042"}
STRANGER = "spiffe://dev.stepgrant.test/agent/other"
SECOND = timedelta(seconds=1)


policy, loaded, built = fixtures.policy, fixtures.loaded, fixtures.built


async def test_what_the_ledger_holds_of_an_assignment_tells_neither_ticket_nor_words(built: Heart) -> None:
    await assigned(built)
    await lease_of(built)
    [made] = [event for event in await built.recorded() if event.type is EventType.ASSIGNMENT_MADE]
    text = repr(made.data)
    assert TICKET.hex() not in text
    assert "ord_00000042" not in text
    assert PURPOSE not in text
    # The same words under another ticket have another digest: nobody can try out words against it.
    await assigned(built, ticket=b"u" * 32)
    digests = [
        event.data["words_sha256"] for event in await built.recorded() if event.type is EventType.ASSIGNMENT_MADE
    ]
    assert len(set(digests)) == 2


async def test_an_assignment_ends_with_its_time(built: Heart) -> None:
    await assigned(built, lives=timedelta(minutes=5))
    built.clock.advance(timedelta(minutes=5))
    assert code_of(await opened_with(built)) is DenialCode.ASSIGNMENT_REFUSED
    assert not built.state.assignments
    assert not built.state.tickets
    # The task that was opened in time lives on by its own bounds.
    await assigned(built, lives=SECOND)
    lease = await lease_of(built)
    built.clock.advance(2 * SECOND)
    await built.granted(lease, "orders.get", ORDER)


@pytest.mark.parametrize("lives", [timedelta(0), -SECOND, LONGEST_ASSIGNMENT + timedelta(seconds=3)])
async def test_an_assignment_is_bounded_in_time(built: Heart, lives: timedelta) -> None:
    with pytest.raises(InvalidInputError):
        await built.assigning.assign(built.peer(DESK), assign_task(built, lives=lives))


async def test_only_who_policy_names_can_assign_and_nobody_else_learns_a_thing(built: Heart) -> None:
    good = await built.assigning.assign(built.peer(STRANGER), assign_task(built))
    bad = await built.assigning.assign(built.peer(STRANGER), assign_task(built, parameters={"order": 1}))
    none = await built.assigning.assign(built.peer(STRANGER), assign_task(built, task_type="Nothing"))
    assert {code_of(answer) for answer in (good, bad, none)} == {DenialCode.NO_PERMIT}
    # Whoever may assign the type learns what is wrong with its parameters; and not to a workload outside of policy.
    mine = await built.assigning.assign(built.peer(DESK), assign_task(built, parameters={"order_id": "ord_00000042"}))
    assert (code_of(mine), mine.argument) == (DenialCode.ARGUMENTS_INVALID, "customer")
    elsewhere = await built.assigning.assign(built.peer(DESK), assign_task(built, workload="spiffe://x.org/agent"))
    assert code_of(elsewhere) is DenialCode.NO_PERMIT
    denied = [event for event in await built.recorded() if event.type is EventType.ASSIGNMENT_DENIED]
    assert len(denied) == 5
    assert [(course.boundary.value, code) for course, code, _ in built.heard.decisions][:2] == [
        ("assign", "no_permit")
    ] * 2


async def test_asking_again_gets_the_same_assignment_and_other_words_under_its_ticket_none(built: Heart) -> None:
    request = assign_task(built)
    desk = built.peer(DESK)
    first, second = await asyncio.gather(built.assigning.assign(desk, request), built.assigning.assign(desk, request))
    assert isinstance(first, Assigned)
    assert first == second
    await lease_of(built)
    again = await built.assigning.assign(desk, request)
    assert again == Assigned(first.assignment_id, "taken")
    assert [event.type for event in await built.recorded()].count(EventType.ASSIGNMENT_MADE) == 1
    for other in (
        assign_task(built, lives=timedelta(minutes=1)),
        assign_task(built, workload=TRIAGE),
        assign_task(built, purpose="another"),
        assign_task(built, parameters={**REFUND, "order_id": "ord_00000043"}),
    ):
        with pytest.raises(AssignmentExistsError):
            await built.assigning.assign(desk, other)
    with pytest.raises(AssignmentExistsError):
        await built.assigning.assign(built.peer("spiffe://dev.stepgrant.test/desk/other"), request)


async def test_a_dispatcher_has_so_many_assignments_and_no_more(built: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assigning, "MAX_ASSIGNMENTS_EACH", 2)
    monkeypatch.setattr(assigning, "MAX_ASSIGNMENTS", 3)
    desk, other = built.peer(DESK), built.peer("spiffe://dev.stepgrant.test/desk/other")
    for ticket in (b"1" * 32, b"2" * 32):
        await assigned(built, ticket=ticket, lives=SECOND)
    third = await built.assigning.assign(desk, assign_task(built, ticket=b"3" * 32))
    assert code_of(third) is DenialCode.LIMIT_EXCEEDED
    await assigned(built, by=DESK.replace("tickets", "other"), ticket=b"4" * 32)
    fourth = await built.assigning.assign(other, assign_task(built, ticket=b"5" * 32))
    assert code_of(fourth) is DenialCode.OVERLOADED
    built.clock.advance(SECOND)
    await assigned(built, ticket=b"3" * 32)


async def test_inv_03_an_assignment_that_cannot_be_recorded_does_not_exist(policy: Path) -> None:
    store = FaultyStore()
    async with heart(store, policy) as built:
        store.refuse = True
        answer = await built.while_time_passes(built.assigning.assign(built.peer(DESK), assign_task(built)))
        assert code_of(answer) is DenialCode.UNRECORDED
        store.refuse = False
        assert not built.state.assignments
        await assigned(built)
        await lease_of(built)


async def test_assignments_survive_the_gateway_and_so_does_what_became_of_them(built: Heart, policy: Path) -> None:
    tickets = {name: name.encode().ljust(32, b".") for name in ("waits", "used", "withdrawn", "late")}
    ids = {name: await assigned(built, ticket=ticket) for name, ticket in tickets.items() if name != "late"}
    await assigned(built, ticket=tickets["late"], lives=SECOND)
    await lease_of(built, ticket=tickets["used"])
    await built.assigning.withdraw(built.peer(DESK), ids["withdrawn"])
    built.clock.advance(2 * SECOND)
    history = fold(await built.recorded())
    assert decode_snapshot(encode_snapshot([], history)) == history

    async with heart(directory=policy) as later:
        later.clock.advance(2 * SECOND)
        restore(later.state, history, later.clock.now())
        later.assigning = Assigning(
            state=later.state, clock=later.clock, entropy=later.entropy, journal=later.journal, endings=later.endings,
            deadlines=later.deadlines,
        )  # fmt: skip
        for name in ("used", "withdrawn", "late"):
            assert code_of(await opened_with(later, tickets[name])) is DenialCode.ASSIGNMENT_REFUSED, name
        await lease_of(later, ticket=tickets["waits"])
        later.clock.advance(timedelta(hours=1))
        assert not later.state.assignments


async def test_inv_07_withdrawing_ends_the_task_at_once_and_opens_nothing(built: Heart) -> None:
    waiting = await assigned(built)
    desk = built.peer(DESK)
    assert await built.assigning.withdraw(desk, waiting) == Withdrawn("", durable=True)
    assert await built.assigning.withdraw(desk, waiting) == Withdrawn("", durable=True)
    assert code_of(await opened_with(built)) is DenialCode.ASSIGNMENT_REFUSED

    taken = await assigned(built, ticket=b"u" * 32)
    lease = await lease_of(built, ticket=b"u" * 32)
    step = await built.granted(lease, "orders.get", ORDER)
    # Also when the time is over in which the task could be opened, while it is open.
    built.clock.advance(SECOND)
    done = await built.assigning.withdraw(desk, taken)
    assert done == Withdrawn(lease.opened.task_id, durable=True)
    assert built.feed.revoked(step.grant_id).code == "assignment_withdrawn"
    assert TaskClosed("assignment_withdrawn", "its dispatcher has withdrawn the assignment.") in built.pushed
    [event] = [
        event for event in await built.recorded()
        if event.type is EventType.ASSIGNMENT_WITHDRAWN and event.data["assignment"] == taken
    ]  # fmt: skip
    assert (event.data["by"], event.data["code"]) == (DESK, "taken")


async def test_a_task_that_outlives_the_time_of_its_assignment_can_still_be_withdrawn(built: Heart) -> None:
    taken = await assigned(built, lives=SECOND)
    lease = await lease_of(built)
    built.clock.advance(2 * SECOND)
    done = await built.assigning.withdraw(built.peer(DESK), taken)
    assert done.ended_task_id == lease.opened.task_id
    assert not built.state.tasks


async def test_only_who_made_an_assignment_can_withdraw_it(built: Heart) -> None:
    assignment = await assigned(built)
    for peer in (built.peer(AGENT), built.peer("spiffe://dev.stepgrant.test/desk/other")):
        with pytest.raises(NotFoundError):
            await built.assigning.withdraw(peer, assignment)
    with pytest.raises(NotFoundError):
        await built.assigning.withdraw(built.peer(DESK), "01KAJ7RM000000000000000000")
    await lease_of(built)


async def test_inv_03_a_withdrawal_does_not_wait_for_the_ledger(policy: Path) -> None:
    store = FaultyStore()
    async with heart(store, policy) as built:
        assignment = await assigned(built)
        lease = await lease_of(built)
        step = await built.granted(lease, "orders.get", ORDER)
        store.block()
        withdrawing = asyncio.ensure_future(built.assigning.withdraw(built.peer(DESK), assignment))
        await asyncio.to_thread(store.entered.wait, 10)
        assert built.feed.revoked(step.grant_id) is not None
        assert not built.state.tasks
        assert (await built.while_time_passes(withdrawing)).durable is False
        store.free.set()


@pytest.mark.parametrize("workload", [DESK, "spiffe://dev.stepgrant.test/desk"])
async def test_inv_07_a_lock_on_the_dispatcher_ends_what_it_assigned_and_opens_nothing(
    built: Heart, workload: str
) -> None:
    await assigned(built)
    await assigned(built, ticket=b"u" * 32)
    lease = await lease_of(built)
    step = await built.granted(lease, "orders.get", ORDER)
    done = await built.operating.set_lock(Selector(workload=workload), "the ticket system is compromised", OPERATOR)
    assert done.ended_steps == 1
    # Resources know nothing of dispatchers, so the lock itself tells them nothing: the grant is named.
    assert built.feed.revoked(step.grant_id).code == "dispatcher_locked"
    assert [said.code for said in built.pushed if isinstance(said, TaskClosed)] == ["dispatcher_locked"]
    assert code_of(await opened_with(built, b"u" * 32)) is DenialCode.LOCKED
    denied = await built.assigning.assign(built.peer(DESK), assign_task(built, ticket=b"v" * 32))
    assert code_of(denied) is DenialCode.LOCKED
    await built.operating.lift_lock(done.lock.lock_id, "all clear", OPERATOR)
    await lease_of(built, ticket=b"u" * 32)


async def test_a_lock_on_another_workload_or_one_tool_of_the_dispatcher_ends_no_task(built: Heart) -> None:
    await assigned(built)
    await lease_of(built)
    for selector in (Selector(workload=STRANGER), Selector(workload=DESK, task_type="Triage")):
        await built.operating.set_lock(selector, "not this one", OPERATOR)
    assert built.state.tasks


def test_a_forgotten_assignment_leaves_nothing_behind(policy: Path) -> None:
    state = State(None)  # type: ignore[arg-type]  # assignments know nothing of policy
    state.forget_assignment("01KAJ7RM000000000000000000")
    assert state.assignment_of(b"x" * 32) is None
