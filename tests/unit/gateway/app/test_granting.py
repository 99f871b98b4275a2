"""Declares and renewals."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant.grant import from_payload
from stepgrant.ids import ulid
from stepgrant_gateway.app.granting import StepExistsError
from stepgrant_gateway.core.boundary import Outcome, ReportStep, StepEnded, StepGranted
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import AGENT, MAIL, MAIL_AUDIENCE, ORDERS, TRIAGE, heart
from tests.kit.tokens import payload_of

ORDER = {"order_id": "ord_00000042"}


async def denied(built, lease, tool: str, arguments: dict[str, object], **more: object) -> Denial:
    answer = await lease.declare(built.intent(tool, arguments, **more))
    assert isinstance(answer, Denial), answer
    return answer


async def test_a_grant_names_holder_tool_target_arguments_and_audience() -> None:
    """INV-08."""
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        step = await built.granted(lease, "orders.refund", {**ORDER, "amount": 40})
        claims = from_payload(payload_of(step.token))
        assert (claims.tool, claims.target, claims.audience) == ("orders.refund", "pg://orders/ord_00000042", ORDERS)
        assert (claims.task_id, claims.step_id, claims.grant_id) == (lease.opened.task_id, step.step_id, step.grant_id)
        assert (claims.tier.value, claims.uses) == ("sensitive", 1)
        assert claims.confirmation == built.peer().credential_sha256
        assert claims.expires_at - built.clock.now() == timedelta(seconds=20)


async def test_another_value_than_the_tasks_is_no_permit_and_says_which() -> None:
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        denial = await denied(built, lease, "orders.refund", {"order_id": "ord_00000043", "amount": 40})
        assert denial.code is DenialCode.NO_PERMIT
        assert denial.argument == "order_id"
        assert denial.decision_id


async def test_inv_08_a_tool_of_a_certificates_holder_is_denied_to_who_shows_a_token() -> None:
    async with heart() as built:
        bearer = replace(built.peer(), method="jwt")
        lease = await built.open(peer=bearer)
        denial = await denied(built, lease, "orders.get", ORDER)
        assert denial.code is DenialCode.CERTIFICATE_REQUIRED
        assert "binding: key" in denial.next
        outside = await denied(built, lease, "orders.get", {"order_id": "ord_00000043", "amount": 1})
        assert outside.code is DenialCode.ARGUMENTS_INVALID


async def test_inv_12_who_shows_a_token_learns_nothing_of_a_tool_that_is_out_of_reach() -> None:
    async with heart() as built:
        lease = await built.open(peer=replace(built.peer(), method="jwt"))
        denial = await denied(built, lease, "orders.refund", {**ORDER, "amount": 40})
        assert denial.code is DenialCode.NO_PERMIT


@pytest.mark.parametrize("tool", ["orders.delete", "nothing.at_all"])
async def test_inv_12_a_tool_out_of_reach_answers_no_permit_whether_it_exists_or_not(tool: str) -> None:
    async with heart() as built:
        denial = await denied(built, await built.open(), tool, {"x": 1})
        assert denial.code is DenialCode.NO_PERMIT
        assert denial.argument == ""


async def test_inv_12_a_tool_out_of_reach_says_nothing_of_its_arguments() -> None:
    async with heart() as built:
        lease = await built.open("Triage", {"mailbox": "support"}, peer=built.peer(TRIAGE))
        denial = await denied(built, lease, "orders.refund", {"order": 1})
        assert (denial.code, denial.argument) == (DenialCode.NO_PERMIT, "")


async def test_a_repeated_declare_gets_the_same_grant_and_mints_nothing() -> None:
    async with heart() as built:
        lease = await built.open()
        intent = built.intent("orders.get", ORDER)
        first, second = await asyncio.gather(lease.declare(intent), lease.declare(intent))
        assert isinstance(first, StepGranted)
        assert first == second == await lease.declare(intent)
        other = built.intent("orders.get", {"order_id": "ord_00000043"}, step_id=intent.step_id)
        with pytest.raises(StepExistsError, match=intent.step_id):
            await lease.declare(other)


async def test_a_repeated_declare_after_the_end_answers_with_the_state() -> None:
    """INV-05."""
    async with heart() as built:
        lease = await built.open()
        intent = built.intent("orders.get", ORDER)
        await lease.declare(intent)
        built.clock.advance(timedelta(seconds=30))
        answer = await lease.declare(intent)
        assert isinstance(answer, Denial)
        assert answer.code is DenialCode.STEP_ENDED
        assert "expired" in answer.reason


async def test_a_step_that_runs_out_of_time_ends_as_expired() -> None:
    """INV-04."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER, ttl=timedelta(seconds=2))
        built.clock.advance(timedelta(seconds=2))
        ended = built.pushed[-1]
        assert isinstance(ended, StepEnded)
        assert (ended.step_id, ended.state, ended.code) == (step.step_id, "expired", "expired")


async def test_a_wish_of_less_than_a_second_is_a_denial() -> None:
    """INV-04."""
    async with heart() as built:
        denial = await denied(built, await built.open(), "orders.get", ORDER, ttl=timedelta(milliseconds=900))
        assert denial.code is DenialCode.STEP_EXPIRING


async def test_what_the_svid_has_no_time_left_for_is_denied_as_the_svids_doing() -> None:
    """The task ends with the SVID of its stream as well, but it is the next SVID that helps."""
    async with heart() as built:
        lease = await built.open(peer=built.peer(lives=timedelta(seconds=20)))
        built.clock.advance(timedelta(seconds=19, milliseconds=500))
        assert (await denied(built, lease, "orders.get", ORDER)).code is DenialCode.IDENTITY_EXPIRING


async def test_a_renewal_is_a_new_grant_and_the_old_one_is_dead() -> None:
    """INV-06."""
    async with heart() as built:
        lease = await built.open()
        first = await built.granted(lease, "orders.search", {"query": "shoes"})
        built.clock.advance(timedelta(seconds=10))
        second = await lease.renew(first.step_id)
        assert isinstance(second, StepGranted)
        assert second.grant_id != first.grant_id
        assert second.expires_at == first.expires_at + timedelta(seconds=10)
        assert built.feed.revoked(first.grant_id).code == "superseded"
        built.clock.advance(timedelta(seconds=25))
        assert not built.pushed


async def test_uses_carry_over_a_renewal_and_used_up_lets_the_old_grant_run_out() -> None:
    """INV-06."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        redemption = ulid(built.clock.now(), built.entropy(10))
        assert (await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, redemption)).accepted
        denial = await lease.renew(step.step_id)
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.USES_EXHAUSTED
        assert not built.pushed
        assert built.state.tasks[lease.opened.task_id].live


async def test_a_renewal_that_policy_denies_revokes_the_step() -> None:
    """INV-06: the budget of a lock set meanwhile is looked at anew."""
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        step = await built.granted(lease, "orders.refund", {**ORDER, "amount": 40})
        built.state.tasks[lease.opened.task_id].shared.completed.clear()
        denial = await lease.renew(step.step_id)
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.NO_PERMIT
        assert built.pushed[-1].state == "revoked"


async def test_a_label_that_another_step_brings_ends_a_live_step_that_it_forbids() -> None:
    """INV-07, and without the labels that the step brought itself."""
    async with heart() as built:
        lease = await built.open()
        await built.granted(lease, "orders.get", ORDER)
        mail = await built.granted(
            lease, "mail.send", {"to": ["ann@dev.stepgrant.test"], "subject": "hello", "body": "there"}
        )
        read = await built.granted(lease, "mail.read", {"mailbox": "support"})
        assert built.pushed[-1].step_id == mail.step_id
        assert (built.pushed[-1].code, built.pushed[-1].state) == ("label", "revoked")
        assert read.step_id in built.state.tasks[lease.opened.task_id].live


async def test_the_sum_of_concurrent_refunds_never_passes_the_budget() -> None:
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        intents = [built.intent("orders.refund", {**ORDER, "amount": 200}) for _ in range(8)]
        answers = await asyncio.gather(*(lease.declare(intent) for intent in intents))
        assert sum(isinstance(answer, StepGranted) for answer in answers) == 2
        codes = {answer.code for answer in answers if isinstance(answer, Denial)}
        assert codes == {DenialCode.BUDGET_EXHAUSTED}


async def test_a_child_stays_within_the_envelope_of_its_parent_and_dies_with_it() -> None:
    """INV-09 and INV-05."""
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        parent = await built.granted(lease, "orders.refund", {**ORDER, "amount": 40})
        other = await denied(built, lease, "orders.get", {"order_id": "ord_00000043"}, parent=parent.step_id)
        assert other.code is DenialCode.OUTSIDE_ENVELOPE
        mail = {"to": ["jo@x.org"], "subject": "s", "body": "b"}
        assert (
            await denied(built, lease, "mail.send", mail, parent=parent.step_id)
        ).code is DenialCode.OUTSIDE_ENVELOPE
        child = await built.granted(lease, "orders.get", ORDER, parent=parent.step_id)
        assert child.expires_at <= parent.expires_at
        grandchild = await denied(built, lease, "orders.get", ORDER, parent=child.step_id)
        assert grandchild.code is DenialCode.OUTSIDE_ENVELOPE
        built.clock.advance(timedelta(seconds=20))
        assert [item.step_id for item in built.pushed] == [child.step_id, parent.step_id]
        orphan = await denied(built, lease, "orders.get", ORDER, parent=parent.step_id)
        assert orphan.code is DenialCode.PARENT_ENDED


async def test_what_cannot_be_recorded_is_not_granted_and_what_it_reserved_is_given_back() -> None:
    """INV-03."""
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        await built.looked_up(lease)
        store.refuse = True
        denial = await built.while_time_passes(denied(built, lease, "orders.refund", {**ORDER, "amount": 400}))
        assert denial.code is DenialCode.UNRECORDED
        assert not built.state.tasks[lease.opened.task_id].live
        store.refuse = False
        await built.while_time_passes(built.granted(lease, "orders.refund", {**ORDER, "amount": 400}))


async def test_ck_01_a_wall_clock_behind_the_ledger_stops_minting() -> None:
    """INV-11."""
    async with heart() as built:
        lease = await built.open()
        await built.granted(lease, "orders.get", ORDER)
        built.clock.set_wall(built.clock.now() - timedelta(hours=1))
        denial = await denied(built, lease, "orders.get", ORDER)
        assert denial.code is DenialCode.UNRECORDED


async def test_a_sensitive_audience_of_another_binding_is_bound_to_the_instance_key() -> None:
    """INV-08."""
    async with heart() as built:
        lease = await built.open()
        mail = await built.granted(lease, "mail.send", {"to": ["jo@x.org"], "subject": "s", "body": "b"})
        claims = from_payload(payload_of(mail.token))
        assert (claims.audience, claims.confirmation) == (MAIL_AUDIENCE, b"k" * 32)
        unknown = await built.redeeming.redeem(MAIL, MAIL_AUDIENCE, ulid(built.clock.now(), bytes(10)), "0" * 26)
        assert unknown.code == "unknown_grant"


async def test_what_is_kept_of_an_ended_or_denied_step_is_small() -> None:
    """A task may have thousands of steps, and each may have come with 64 KiB of arguments."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        lease.report(ReportStep(step.step_id, Outcome.COMPLETED, None, ""))
        await denied(built, lease, "orders.refund", {"order_id": "ord_00000043", "amount": 1})
        for kept in built.state.tasks[lease.opened.task_id].shared.steps.values():
            assert (kept.declared.arguments, kept.declared.purpose) == ({}, "")
            assert kept.call is kept.envelope is None
            assert not kept.questions
            assert kept.grant is None or kept.grant.answer is None
            assert kept.first_answer is None or isinstance(kept.first_answer.result(), Denial)
        assert [view.target for view in built.operating.steps(lease.opened.task_id)] == ["pg://orders/ord_00000042", ""]


async def test_what_a_refused_step_reserved_is_given_back_also_when_its_stream_was_gone_before() -> None:
    """INV-03: a budget with a window must not keep what nothing will ever take out of it."""
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        store.block()
        mail = {"to": ["jo@x.org"], "subject": "s", "body": "b"}
        asking = asyncio.ensure_future(denied(built, lease, "mail.send", mail))
        assert await asyncio.to_thread(store.entered.wait, 5)
        lease.lost("stream_lost", "the stream ended.")
        store.refuse = True
        store.free.set()
        assert (await built.while_time_passes(asking)).code is DenialCode.UNRECORDED
        store.refuse = False
        assert built.state.books["mails", AGENT].total == 0


async def test_a_renewal_that_cannot_be_minted_leaves_no_grant_alive() -> None:
    """INV-06: on record the old grant is superseded, so it is dead whatever becomes of the new one."""
    async with heart() as built:
        lease = await built.open()
        first = await built.granted(lease, "orders.search", {"query": "shoes"})
        built.keys.active = lambda: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await lease.renew(first.step_id)
        assert built.feed.revoked(first.grant_id) is not None


async def test_a_renewal_during_which_the_last_use_is_taken_brings_no_grant_without_uses() -> None:
    """INV-06 and INV-08: 0 uses would read as unlimited on the wire."""
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        store.block()
        renewing = asyncio.ensure_future(lease.renew(step.step_id))
        assert await asyncio.to_thread(store.entered.wait, 5)
        redemption = ulid(built.clock.now(), built.entropy(10))
        taking = asyncio.ensure_future(built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, redemption))
        await asyncio.sleep(0)
        store.free.set()
        answer = await renewing
        assert isinstance(answer, Denial)
        assert answer.code is DenialCode.USES_EXHAUSTED
        assert (await taking).accepted


async def test_a_grant_that_cannot_be_signed_is_a_denial_and_its_step_has_ended() -> None:
    """INV-04: a key that ends before the grant signs nothing."""
    async with heart() as built:
        built.clock.advance(built.keys.active().not_after - built.clock.now() - timedelta(seconds=10))
        lease = await built.open(peer=built.peer())
        denial = await denied(built, lease, "orders.get", ORDER)
        assert denial.code is DenialCode.LIMIT_EXCEEDED
        assert "signing key" in denial.reason
        assert not built.state.tasks[lease.opened.task_id].live
