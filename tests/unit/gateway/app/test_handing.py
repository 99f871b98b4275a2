"""A step is handed on: by whom, to whom, within what, for how long."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode, ProtocolError
from stepgrant.grant import MAX_CHAIN
from stepgrant_gateway.app.granting import StepExistsError
from stepgrant_gateway.app.handing import MAX_HAND_OFFS
from stepgrant_gateway.app.open_tasks import MAX_LIVE_STEPS, MAX_STEP_DEPTH
from stepgrant_gateway.core.boundary import HandedOff, Outcome, ReportStep, StepGranted
from stepgrant_gateway.core.delegation import AnyValue, Exact
from stepgrant_gateway.core.events import EventType
from tests.kit import handed as fixtures
from tests.kit.assigned import code_of
from tests.kit.faulty_store import FaultyStore
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
from tests.kit.heart import AGENT, Heart, heart
from tests.kit.tokens import payload_of

directory, loaded, built = fixtures.directory, fixtures.loaded, fixtures.built


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


async def test_id_16_no_stream_takes_a_step_of_its_origin_or_of_another_branch_for_its_own(built: Heart) -> None:
    lease = await built.open()
    handed_off = await handed(built, lease)
    clerk = await branch(built, handed_off)
    beside = await asked(built, lease, handed_off.step_id, PACKER)
    assert isinstance(beside, HandedOff)
    packer = await branch(built, beside, PACKER)
    steps = {of: (await built.granted(of, "orders.get", GET)).step_id for of in (clerk, packer)}
    steps[lease] = handed_off.step_id
    for of, other in [(of, other) for of in steps for owner, other in steps.items() if of is not owner]:
        with pytest.raises(ProtocolError):
            of.report(ReportStep(other, Outcome.COMPLETED, None, ""))
        with pytest.raises(ProtocolError):
            of.renew(other)
        with pytest.raises(ProtocolError):
            await asked(built, of, other, RUNNER)
        stranger = await answer_to(built, of, "orders.get", GET, parent=other)
        assert code_of(stranger) is DenialCode.PARENT_ENDED


async def test_id_16_the_same_intent_under_a_known_step_id_gets_no_grant_of_another_stream(built: Heart) -> None:
    """Not that of the origin, and not that of another branch of the very same workload below the very same step."""
    lease = await built.open()
    handed_off = await handed(built, lease)
    clerk = await branch(built, handed_off)
    twice = await asked(built, lease, handed_off.step_id)
    assert isinstance(twice, HandedOff)
    other = await branch(built, twice)
    for owner in (lease, clerk):
        step = await built.granted(owner, "orders.search", SEARCH)
        again = built.intent("orders.search", SEARCH, step_id=step.step_id)
        assert await owner.declare(again) == step
        with pytest.raises(StepExistsError):
            other.declare(again)


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


async def test_a_hand_off_that_cannot_be_recorded_hands_nothing_on(directory: Path) -> None:
    store = FaultyStore()
    async with heart(store, directory) as built:
        lease = await built.open()
        search = await built.granted(lease, "orders.search", SEARCH)
        store.refuse = True
        answer = await built.while_time_passes(asked(built, lease, search.step_id))
        assert code_of(answer) is DenialCode.UNRECORDED
        assert not built.state.hand_offs


async def test_id_16_each_workload_of_the_chain_is_asked_about_as_it_has_proven_itself(tmp_path: Path) -> None:
    rule = f'''@id("no-tokens") forbid (principal in Workload::"{CLERK}", action == Action::"mail.send", resource)
        when {{ context.peer.method == "jwt" }};'''
    async with heart(directory=write_handed(tmp_path, more=rule)) as built:
        lease = await built.open()
        for method, permitted in (("x509", True), ("jwt", False)):
            proven = replace(built.peer(CLERK), method=method)
            clerk = await branch(built, await handed(built, lease), peer=proven)
            runner = await branch(built, await handed(built, clerk, RUNNER, WHOLE), RUNNER) if permitted else None
            for of in filter(None, (clerk, runner)):
                assert isinstance(await answer_to(built, of, "mail.send", MAIL), StepGranted) is permitted
        # What is bound to a certificate is not for who showed a token, whoever handed it on.
        assert code_of(await answer_to(built, clerk, "orders.get", GET)) is DenialCode.CERTIFICATE_REQUIRED
