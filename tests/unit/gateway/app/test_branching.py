"""A branch of a task: who opens it, what it ends with, and what is left of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode, TaskClosedError
from stepgrant.selector import Selector
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.app.restoring import restore
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import Outcome, Pushed, ReportStep, StepEnded, TaskClosed
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.grants import TTL_CAP
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.storage.memory import MemoryLedger
from tests.kit import handed as fixtures
from tests.kit.assigned import code_of
from tests.kit.faulty_store import FaultyStore
from tests.kit.handed import (
    CLERK,
    GET,
    MAIL,
    PACKER,
    SEARCH,
    SEARCHES,
    answer_to,
    asked,
    branch,
    handed,
    opened_by,
    tools,
    write_handed,
)
from tests.kit.heart import AGENT, OPERATOR, REFUND, Heart, heart

directory, loaded, built = fixtures.directory, fixtures.loaded, fixtures.built


@pytest.mark.parametrize(
    ("who", "changes", "why"),
    [
        (PACKER, {}, "another workload"),
        (AGENT, {}, "another workload"),
        (CLERK, {"task_type": "Triage"}, "another type"),
        (CLERK, {"parameters": REFUND | {"order_id": "ord_00000043"}}, "other parameters"),
        (CLERK, {"ticket": b"x" * 32}, "not known"),
    ],
)
async def test_id_16_nobody_else_opens_the_branch_and_all_hear_the_same(
    built: Heart, who: str, changes: dict[str, object], why: str
) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    said = {"ticket": handed_off.ticket, **changes}
    refused = await opened_by(built, of=who, **said)  # type: ignore[arg-type]
    assert code_of(refused) is DenialCode.HAND_OFF_REFUSED
    assert isinstance(refused, Denial)
    assert "handed on to this workload" in refused.reason
    [denied] = [event.data for event in await built.recorded() if event.type is EventType.TASK_DENIED]
    assert denied["handed_on"]
    assert why in denied["errors"][0]
    assert await branch(built, handed_off), "what others tried has used nothing up"


async def test_id_16_of_64_openings_with_one_hand_off_exactly_one_wins(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    answers = await asyncio.gather(*(opened_by(built, handed_off.ticket) for _ in range(64)))
    assert sum(isinstance(answer, TaskLease) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, Denial)} == {DenialCode.HAND_OFF_REFUSED}


@pytest.mark.parametrize("end", ["reported", "closed", "lost", "expired", "locked", "parent"])
async def test_id_16_a_branch_dies_with_its_origin(built: Heart, end: str) -> None:
    """And everything below it, whatever ended the step that was handed on."""
    lease = await built.open()
    outer = await built.granted(lease, "orders.search", SEARCH)
    handed_off = await handed(built, lease, parent=outer.step_id)
    heard: list[Pushed] = []
    clerk = await branch(built, handed_off, pushed=heard)
    step = await built.granted(clerk, "orders.get", GET)
    packer = await branch(built, await handed(built, clerk, PACKER), PACKER, pushed=heard)
    below = await built.granted(packer, "orders.get", GET)
    steps = [built.state.grants[grant] for grant in (step.grant_id, below.grant_id)]
    match end:
        case "reported":
            lease.report(ReportStep(handed_off.step_id, Outcome.COMPLETED, None, ""))
        case "closed":
            lease.close(Outcome.COMPLETED)
        case "lost":
            lease.lost("stream_lost", "gone")
        case "expired":
            built.clock.advance(max(TTL_CAP.values()))
        case "locked":
            await built.operating.set_lock(Selector(workload=AGENT), "stop", OPERATOR)
        case "parent":
            lease.report(ReportStep(outer.step_id, Outcome.FAILED, None, "Boom"))
    assert [item.code for item in heard if isinstance(item, TaskClosed)] == ["parent_ended", "parent_ended"]
    assert not built.state.hand_offs
    assert set(built.state.tasks) <= {lease.opened.task_id}
    assert not any(of.live for of in steps)
    if end != "expired":  # Of what has run out nobody is told.
        assert built.known_dead(step.grant_id)
        assert built.known_dead(below.grant_id)
    with pytest.raises(TaskClosedError):
        clerk.declare(built.intent("orders.get", GET))
    types = [event.type for event in await built.recorded()]
    assert types.count(EventType.BRANCH_OPENED) == types.count(EventType.BRANCH_CLOSED) == 2


async def test_id_16_what_was_handed_on_opens_nothing_once_its_step_has_ended(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    lease.report(ReportStep(handed_off.step_id, Outcome.COMPLETED, None, ""))
    assert not built.state.hand_offs
    assert code_of(await opened_by(built, handed_off.ticket)) is DenialCode.HAND_OFF_REFUSED
    again = await asked(built, lease, handed_off.step_id)
    assert code_of(again) is DenialCode.STEP_ENDED


async def test_a_branch_that_ends_leaves_its_origin_alone(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    clerk = await branch(built, handed_off)
    step = await built.granted(clerk, "orders.get", GET)
    clerk.close(Outcome.COMPLETED)
    assert not built.state.grants[step.grant_id].live
    task = built.state.tasks[lease.opened.task_id]
    assert set(task.live) == {handed_off.step_id}
    assert not task.shared.branches


async def test_id_16_what_one_of_the_chain_is_locked_out_of_nobody_beyond_it_does(built: Heart) -> None:
    """The step that was handed on is of another tool, and lives."""
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease))
    mail = await built.granted(clerk, "mail.send", MAIL)
    await built.operating.set_lock(Selector(workload=AGENT, tool="mail.send"), "stop", OPERATOR)
    assert not built.state.grants[mail.grant_id].live
    assert built.known_dead(mail.grant_id)
    assert code_of(await answer_to(built, clerk, "mail.send", MAIL)) is DenialCode.LOCKED
    await built.granted(clerk, "orders.get", GET)


@pytest.mark.parametrize("locked", [AGENT, CLERK])
async def test_id_16_a_lock_on_any_workload_of_the_chain_ends_the_steps_of_a_branch(built: Heart, locked: str) -> None:
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease))
    step = await built.granted(clerk, "orders.get", GET)
    lock = await built.operating.set_lock(Selector(workload=locked), "stop", OPERATOR)
    assert lock.ended_steps == (1 if locked == CLERK else 2), "those of a branch that ends along count"
    assert not built.state.grants[step.grant_id].live
    own = built.state.tasks[lease.opened.task_id].live
    assert bool(own) is (locked == CLERK), "who handed on does not fall under a lock on who received"


async def test_a_label_that_the_origin_brings_ends_a_step_of_its_branch_that_it_forbids(built: Heart) -> None:
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease))
    await built.granted(clerk, "orders.get", GET)
    colleague = await built.granted(clerk, "mail.send", {**MAIL, "to": ["ann@dev.stepgrant.test"]})
    await built.granted(lease, "mail.read", {"mailbox": "support"})
    assert [item.step_id for item in built.pushed if isinstance(item, StepEnded)] == [colleague.step_id]


async def test_a_branch_is_taken_up_again_by_its_own_token_and_ends_with_its_own_svid(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease, envelope=tools(orders__search=SEARCHES))
    clerk = await branch(built, handed_off, lives=timedelta(seconds=15))
    token = clerk.resume_token()
    clerk.lost("stream_lost", "gone")
    assert handed_off.hand_off_id in built.state.tasks
    peer = built.peer(CLERK, lives=timedelta(minutes=5), leaf=b"next")
    taken = await built.taken(token, peer=peer, jkt=b"r" * 32)
    assert (taken.opened.task_id, taken.opened.branch_id) == (lease.opened.task_id, handed_off.hand_off_id)
    built.clock.advance(timedelta(seconds=16))
    await built.granted(taken, "orders.search", SEARCH)
    assert code_of(await built.take(token, peer=peer, jkt=b"r" * 32)) is DenialCode.RESUME_REFUSED


async def test_a_branch_outlives_the_svid_that_its_origin_had_when_it_was_opened(built: Heart) -> None:
    lease = await built.open(peer=built.peer(lives=timedelta(seconds=20)))
    token = lease.resume_token()
    handed_off = await handed(built, lease)
    clerk = await branch(built, handed_off)
    lease = await built.taken(token, peer=built.peer(leaf=b"next"))
    assert clerk.opened.branch_id in built.state.tasks
    task = built.state.tasks[clerk.opened.branch_id]
    assert task.expires_at > built.clock.now() + timedelta(minutes=10)


async def test_an_opening_that_cannot_be_recorded_gives_the_hand_off_back(directory: Path) -> None:
    store = FaultyStore()
    async with heart(store, directory) as built:
        handed_off = await handed(built, await built.open())
        store.block()
        opening = asyncio.ensure_future(opened_by(built, handed_off.ticket))
        await asyncio.to_thread(store.entered.wait, 10)
        assert not built.state.hand_offs, "taken from the moment on in which it was decided"
        assert code_of(await built.while_time_passes(opening)) is DenialCode.UNRECORDED
        store.free.set()
        clerk = await branch(built, handed_off)
        # The first opening became durable all the same, and its end right behind it.
        events = [event for event in await built.recorded() if event.data.get("branch") == clerk.opened.branch_id]
        assert [(event.type.value, event.data.get("code")) for event in events] == [
            ("branch.opened", None),
            ("branch.closed", "undelivered"),
            ("branch.opened", None),
        ]


async def test_a_step_that_ends_while_its_branch_is_being_opened_ends_the_branch(directory: Path) -> None:
    store = FaultyStore()
    async with heart(store, directory) as built:
        lease, heard = await built.open(), []
        handed_off = await handed(built, lease)
        store.block()
        opening = asyncio.ensure_future(opened_by(built, handed_off.ticket, pushed=heard))
        await asyncio.to_thread(store.entered.wait, 10)
        lease.report(ReportStep(handed_off.step_id, Outcome.COMPLETED, None, ""))
        store.free.set()
        clerk = await built.while_time_passes(opening)
        assert [item.code for item in heard] == ["parent_ended"]
        assert isinstance(clerk, TaskLease)
        with pytest.raises(TaskClosedError):
            clerk.declare(built.intent("orders.get", GET))


async def test_labels_of_the_receivers_memory_come_into_the_task_and_the_tasks_into_its_memory(built: Heart) -> None:
    lease = await built.open()
    colleague = await built.granted(lease, "mail.send", {**MAIL, "to": ["ann@dev.stepgrant.test"]})
    handed_off = await handed(built, lease)
    built.state.memory.remember(CLERK, b"r" * 32, ["untrusted"], built.clock.now())
    assert code_of(await opened_by(built, handed_off.ticket)) is DenialCode.FORBIDDEN, "policy sees what it would bring"
    built.state.memory.instances.clear()
    clerk = await branch(built, handed_off)
    clerk.close(Outcome.COMPLETED)
    assert built.state.memory.brought(CLERK, b"r" * 32, built.clock.now() - timedelta(hours=1)) == {"confidential"}
    assert colleague.step_id in built.state.tasks[lease.opened.task_id].live


async def test_after_a_restart_nothing_of_a_branch_is_left_but_what_it_spent_and_saw(directory: Path) -> None:
    store = MemoryLedger()
    async with heart(store, directory) as built:
        clerk = await branch(built, await handed(built, await built.open()))
        await built.granted(clerk, "mail.send", MAIL)
        history = fold(await built.recorded())
        assert history.open_branches.keys() == {clerk.opened.branch_id}
        state = State(built.state.policy)
        ends = restore(state, history, built.clock.now())
        told = [(event.type.value, event.data.get("code")) for event in ends]
        assert told == [("step.ended", "gateway_gone")] * 2 + [("branch.closed", "gateway_gone"), ("task.closed", "gateway_gone")]  # fmt: skip
        assert {owner: book.total for (_, owner), book in state.books.items()} == {AGENT: 1, CLERK: 1}
        assert state.memory.brought(CLERK, b"r" * 32, built.clock.now() - timedelta(hours=1)) == {"confidential"}


async def test_a_policy_that_permits_one_of_the_chain_no_more_ends_the_steps_of_its_branches(tmp_path: Path) -> None:
    directory = write_handed(tmp_path)
    async with heart(directory=directory) as built:
        clerk = await branch(built, await handed(built, await built.open()))
        step = await built.granted(clerk, "orders.get", GET)
        rule = f'@id("no-clerks") forbid (principal in Workload::"{CLERK}", action == Action::"orders.get", resource);'
        (directory / "more.cedar").write_text(rule)
        assert (await built.operating.reload_policy(OPERATOR)).activated
        assert not built.state.grants[step.grant_id].live
        assert clerk.opened.branch_id in built.state.tasks
