"""A step is handed on: by whom, to whom, within what, for how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode, ProtocolError, TaskClosedError
from stepgrant.grant import MAX_CHAIN
from stepgrant.selector import Selector
from stepgrant_gateway.app.handing import MAX_HAND_OFFS
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.app.state import MAX_LIVE_STEPS, MAX_STEP_DEPTH
from stepgrant_gateway.core.boundary import HandedOff, Outcome, Pushed, ReportStep, StepEnded, StepGranted, TaskClosed
from stepgrant_gateway.core.delegation import AnyValue, Exact
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.grants import TTL_CAP
from tests.kit.assigned import code_of
from tests.kit.handed import (
    CLERK,
    GET,
    LAST,
    MAIL,
    ORDER,
    PACKER,
    READS,
    RUNNER,
    SEARCH,
    SEARCHES,
    STRANGER,
    WHOLE,
    answer_to,
    asked,
    branch,
    handed,
    opened_by,
    tools,
    write_handed,
)
from tests.kit.heart import AGENT, OPERATOR, REFUND, Heart, heart
from tests.kit.tokens import payload_of


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_handed(tmp_path_factory.mktemp("handed"))


@pytest.fixture
async def built(directory: Path) -> AsyncIterator[Heart]:
    async with heart(directory=directory) as built:
        yield built


async def test_a_branch_works_for_the_same_task_in_its_own_name(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    mine = await branch(built, handed_off)
    assert (mine.opened.task_id, mine.opened.branch_id) == (lease.opened.task_id, handed_off.hand_off_id)
    assert [offer.tool for offer in mine.opened.tools] == ["mail.send", "orders.get", "orders.search"]
    step = await built.granted(mine, "orders.get", GET)
    claims = json.loads(payload_of(step.token))
    assert (claims["txn"], claims["sub"], claims["chain"]) == (lease.opened.task_id, CLERK, [AGENT, CLERK])


async def test_id_16_the_rights_of_a_branch_are_those_that_all_of_its_chain_have(built: Heart) -> None:
    """The least terms count, and what one workload of the chain may not, nobody beyond it may."""
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease))
    mail = await built.granted(clerk, "mail.send", MAIL)
    assert mail.expires_at - built.clock.now() <= timedelta(seconds=20)
    packer = await branch(built, await handed(built, clerk, PACKER), PACKER)
    refused = await answer_to(built, packer, "mail.send", MAIL)
    assert code_of(refused) is DenialCode.FORBIDDEN
    runner = await branch(built, await handed(built, packer, RUNNER), RUNNER)
    beyond = await answer_to(built, runner, "mail.send", MAIL)
    assert code_of(beyond) is DenialCode.FORBIDDEN
    [event] = [event for event in await built.recorded() if event.data.get("branch") == runner.opened.branch_id and event.type is EventType.STEP_DENIED]  # fmt: skip
    assert event.data["chain"] == [AGENT, CLERK, PACKER, RUNNER]
    assert f"refused for {PACKER}, one of the chain." in event.data["errors"]
    assert isinstance(await answer_to(built, runner, "orders.get", GET), StepGranted)


async def test_id_16_a_branch_can_only_narrow_inv_09(built: Heart) -> None:
    """Within what was handed on, within all that was handed on before, and within the step's own children."""
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease, envelope=READS))
    other = await answer_to(built, clerk, "orders.get", {"order_id": "ord_00000043"})
    assert code_of(other) is DenialCode.OUTSIDE_ENVELOPE
    assert code_of(await answer_to(built, clerk, "mail.send", MAIL)) is DenialCode.OUTSIDE_ENVELOPE
    packer = await branch(built, await handed(built, clerk, PACKER, WHOLE), PACKER)
    assert [offer.tool for offer in packer.opened.tools] == ["orders.get", "orders.search"]
    assert code_of(await answer_to(built, packer, "orders.get", {"order_id": "ord_00000043"})) is DenialCode.OUTSIDE_ENVELOPE  # fmt: skip
    assert code_of(await answer_to(built, packer, "mail.send", MAIL)) is DenialCode.OUTSIDE_ENVELOPE
    assert isinstance(await answer_to(built, packer, "orders.get", GET), StepGranted)


async def test_id_16_an_envelope_that_allows_more_than_the_step_is_not_handed_on_inv_09(built: Heart) -> None:
    lease = await built.open()
    search = await built.granted(lease, "orders.search", SEARCH)
    for wider in (
        tools(mail__read={"mailbox": AnyValue()}),
        tools(orders__get={"order_id": AnyValue(), "more": AnyValue()}),
    ):
        assert code_of(await asked(built, lease, search.step_id, envelope=wider)) is DenialCode.OUTSIDE_ENVELOPE
    childless = await built.granted(lease, "orders.get", GET)
    refused = await asked(built, lease, childless.step_id, envelope=tools(orders__get={"order_id": Exact(ORDER)}))
    assert code_of(refused) is DenialCode.OUTSIDE_ENVELOPE
    denied = [event.data["code"] for event in await built.recorded() if event.type is EventType.HAND_OFF_DENIED]
    assert denied == ["outside_envelope"] * 3


async def test_id_16_nobody_receives_whom_policy_does_not_let(built: Heart) -> None:
    lease = await built.open()
    search = await built.granted(lease, "orders.search", SEARCH)
    assert code_of(await asked(built, lease, search.step_id, STRANGER)) is DenialCode.NO_PERMIT
    handed_off = await handed(built, lease)
    mail = await built.granted(lease, "mail.read", {"mailbox": "support"})
    late = await opened_by(built, handed_off.ticket)
    assert code_of(late) is DenialCode.FORBIDDEN, "the task carries another label since then"
    assert mail.step_id in built.state.tasks[lease.opened.task_id].live


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


@pytest.mark.parametrize("locked", [AGENT, CLERK])
async def test_id_16_a_lock_on_any_workload_of_the_chain_ends_the_steps_of_a_branch(built: Heart, locked: str) -> None:
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease))
    step = await built.granted(clerk, "orders.get", GET)
    await built.operating.set_lock(Selector(workload=locked), "stop", OPERATOR)
    assert not built.state.grants[step.grant_id].live
    own = built.state.tasks[lease.opened.task_id].live
    assert bool(own) is (locked == CLERK), "who handed on does not fall under a lock on who received"


async def test_id_16_labels_counts_and_budgets_are_the_tasks(built: Heart) -> None:
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease))
    await built.granted(clerk, "orders.get", GET)
    task = built.state.tasks[lease.opened.task_id]
    assert task.labels_without("") == {"confidential"}
    for of in (clerk, lease):
        await answer_to(built, of, "orders.purge", GET)
    assert task.shared.denials == 2
    await built.granted(clerk, "mail.send", MAIL)
    spent = {owner: book.total for (name, owner), book in built.state.books.items() if name == "mails"}
    assert spent == {AGENT: 1, CLERK: 1}, "a workload cannot spend more by handing on"


async def test_a_label_that_the_origin_brings_ends_a_step_of_its_branch_that_it_forbids(built: Heart) -> None:
    lease = await built.open()
    clerk = await branch(built, await handed(built, lease))
    await built.granted(clerk, "orders.get", GET)
    colleague = await built.granted(clerk, "mail.send", {**MAIL, "to": ["ann@dev.stepgrant.test"]})
    await built.granted(lease, "mail.read", {"mailbox": "support"})
    assert [item.step_id for item in built.pushed if isinstance(item, StepEnded)] == [colleague.step_id]


async def test_what_a_branch_is_called_by_belongs_to_it_alone(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    clerk = await branch(built, handed_off)
    step = await built.granted(clerk, "orders.get", GET)
    for of, other in ((lease, step.step_id), (clerk, handed_off.step_id)):
        with pytest.raises(ProtocolError):
            of.report(ReportStep(other, Outcome.COMPLETED, None, ""))
        with pytest.raises(ProtocolError):
            of.renew(other)
        with pytest.raises(ProtocolError):
            await asked(built, of, other, PACKER)
        stranger = await answer_to(built, of, "orders.get", GET, parent=other)
        assert code_of(stranger) is DenialCode.PARENT_ENDED


async def test_id_16_the_depth_of_hand_offs_is_bounded(built: Heart) -> None:
    lease = await built.open()
    for receiver in (CLERK, PACKER, RUNNER):
        lease = await branch(built, await handed(built, lease, receiver), receiver)
    search = await built.granted(lease, "orders.search", SEARCH)
    refused = await asked(built, lease, search.step_id, LAST)
    assert code_of(refused) is DenialCode.LIMIT_EXCEEDED
    assert isinstance(refused, Denial)
    assert str(MAX_CHAIN) in refused.reason
    circle = await asked(built, lease, search.step_id, CLERK)
    assert code_of(circle) is DenialCode.LIMIT_EXCEEDED


async def test_bounds_hold_over_a_task_and_its_branches(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    clerk = await branch(built, handed_off)
    for _ in range(MAX_HAND_OFFS - 1):
        assert isinstance(await asked(built, lease, handed_off.step_id, RUNNER), HandedOff)
    assert code_of(await asked(built, lease, handed_off.step_id, RUNNER)) is DenialCode.LIMIT_EXCEEDED
    for _ in range(MAX_LIVE_STEPS - 1):
        await built.granted(clerk, "orders.search", SEARCH)
    for of in (lease, clerk):
        assert code_of(await answer_to(built, of, "orders.search", SEARCH)) is DenialCode.LIMIT_EXCEEDED
    assert MAX_STEP_DEPTH > MAX_CHAIN


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
