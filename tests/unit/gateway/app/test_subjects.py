"""Tasks on behalf of a user: what policy sees, what the grant says, and what ends them."""

from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant.grant import from_payload
from stepgrant.selector import Selector
from stepgrant_gateway.core.boundary import TaskClosed
from stepgrant_gateway.core.history import fold
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import OPERATOR, TRIAGE, heart
from tests.kit.subjects import JO, MAX, subject_policy
from tests.kit.tokens import payload_of

ORDER = {"order_id": "ord_00000042"}
SECOND = timedelta(seconds=1)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return subject_policy(tmp_path / "policy")


async def test_the_grant_says_on_whose_behalf_it_is_and_the_record_does_without_the_token(policy: Path) -> None:
    async with heart(directory=policy) as built:
        token = built.token(department="support", email="jo@x.org")
        lease = await built.open(subject_token=token)
        step = await built.granted(lease, "orders.get", ORDER)
        claims = from_payload(payload_of(step.token))
        assert claims.on_behalf_of == JO
        assert [view.subject for view in built.operating.tasks()] == [str(JO)]
        events = await built.recorded()
        [opened] = [event for event in events if event.type.value == "task.opened"]
        assert opened.data["subject"] == {"iss": JO.issuer, "sub": JO.subject}
        assert all(token not in repr(event) and "jo@x.org" not in repr(event) for event in events)
        nobody = await built.open()
        bare = await built.granted(nobody, "orders.get", ORDER)
        assert from_payload(payload_of(bare.token)).on_behalf_of is None


async def test_policy_sees_declared_claims_and_no_others(policy: Path) -> None:
    async with heart(directory=policy) as built:
        await built.open(subject_token=built.token(department="support", acr=1.5, admin=True))
        await built.open(subject_token=built.token())
        answer = await built.ask(subject_token=built.token(department="sales"))
        assert isinstance(answer, Denial)
        assert (answer.code, answer.reason) == (DenialCode.FORBIDDEN, "This is for users of the support department.")


@pytest.mark.parametrize(
    "claims", [{"department": 5}, {"department": None}, {"groups": "admins"}, {"groups": ["a", 1]}]
)
async def test_a_declared_claim_that_does_not_fit_denies(policy: Path, claims: dict[str, object]) -> None:
    async with heart(directory=policy) as built:
        answer = await built.ask(subject_token=built.token(**claims))
        assert isinstance(answer, Denial)
        assert answer.code is DenialCode.SUBJECT_INVALID
        assert answer.argument.startswith(next(iter(claims)))


async def test_inv_12_what_is_wrong_with_a_token_only_who_could_open_such_a_task_hears(policy: Path) -> None:
    async with heart(directory=policy) as built:
        told = await built.ask(subject_token="no token")
        assert isinstance(told, Denial)
        assert told.code is DenialCode.SUBJECT_INVALID
        for peer, task_type in ((built.peer(TRIAGE), "Refund"), (None, "Nothing"), (None, "Triage")):
            answer = await built.ask(task_type, peer=peer, subject_token="no token")
            assert isinstance(answer, Denial)
            assert answer.code is DenialCode.NO_PERMIT


async def test_inv_04_neither_grant_nor_task_outlives_the_token_of_the_subject(policy: Path) -> None:
    async with heart(directory=policy) as built:
        lease = await built.open(subject_token=built.token(lives=10 * SECOND))
        assert lease.opened.expires_at == built.clock.now() + 10 * SECOND
        step = await built.granted(lease, "orders.get", ORDER)
        assert step.expires_at <= built.clock.now() + 10 * SECOND
        built.clock.advance(9 * SECOND + SECOND / 2)
        denial = await lease.declare(built.intent("orders.search", {"query": "x"}))
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.SUBJECT_EXPIRING
        built.clock.advance(SECOND / 2)
        assert built.known_dead(step.grant_id) or not built.state.grants[step.grant_id].live
        assert isinstance(built.pushed[-1], TaskClosed)
        assert built.pushed[-1].code == "subject_expired"


async def test_a_lock_on_a_subject_ends_its_tasks_and_nobody_else_s(policy: Path) -> None:
    async with heart(directory=policy) as built:
        jo, other, nobody = (
            await built.open(subject_token=built.token()),
            await built.open(subject_token=built.token(MAX)),
            await built.open(),
        )
        step = await built.granted(jo, "orders.get", ORDER)
        kept = await built.granted(other, "orders.get", ORDER)
        done = await built.operating.set_lock(Selector(subject=str(JO)), "INC-7", OPERATOR)
        assert done.ended_steps == 1
        assert not built.state.grants[step.grant_id].live
        assert built.state.grants[kept.grant_id].live
        assert [view.subject for view in built.operating.tasks()] == [str(MAX), ""]
        assert [item.code for item in built.pushed if isinstance(item, TaskClosed)] == ["locked"]
        answer = await built.ask(subject_token=built.token())
        assert isinstance(answer, Denial)
        assert answer.code is DenialCode.LOCKED
        await built.granted(nobody, "orders.get", ORDER)
        [found] = fold(await built.recorded()).locks.values()
        assert found.selector == Selector(subject=str(JO))


async def test_a_budget_by_subject_counts_over_tasks_and_workloads_and_after_a_restart(policy: Path) -> None:
    store = FaultyStore()
    async with heart(store, directory=policy) as built:
        first = await built.open(subject_token=built.token())
        await built.looked_up(first)
        await built.granted(first, "orders.refund", {**ORDER, "amount": 200})
        second = await built.open(subject_token=built.token(department="support"), jkt=b"2" * 32)
        await built.looked_up(second)
        denied = await second.declare(built.intent("orders.refund", {**ORDER, "amount": 200}))
        assert isinstance(denied, Denial)
        assert (denied.code, denied.reason) == (
            DenialCode.BUDGET_EXHAUSTED,
            "This user has had enough paid back. Spent already: by_user.",
        )
        other = await built.open(subject_token=built.token(MAX))
        await built.looked_up(other)
        await built.granted(other, "orders.refund", {**ORDER, "amount": 200})
        history = fold(await built.recorded())
        assert {key: sum(grain.amount for grain in grains.values()) for key, grains in history.spent.items()}[
            "by_user", str(JO)
        ] == 200


async def test_a_call_that_counts_by_subject_is_denied_to_a_task_without_one(policy: Path) -> None:
    async with heart(directory=policy) as built:
        lease = await built.open()
        await built.looked_up(lease)
        denied = await lease.declare(built.intent("orders.refund", {**ORDER, "amount": 1}))
        assert isinstance(denied, Denial)
        assert denied.code is DenialCode.SUBJECT_REQUIRED


async def test_a_task_is_taken_up_with_a_token_of_the_same_subject_only(policy: Path) -> None:
    async with heart(directory=policy) as built:
        first = await built.open(subject_token=built.token(lives=20 * SECOND))
        token = first.resume_token()
        first.lost("stream_lost", "gone")
        for subject_token in ("", built.token(MAX)):
            answer = await built.take(token, subject_token=subject_token)
            assert isinstance(answer, Denial)
            assert answer.code is DenialCode.RESUME_REFUSED
        invalid = await built.take(token, subject_token="no token")
        assert isinstance(invalid, Denial)
        assert invalid.code is DenialCode.SUBJECT_INVALID
        second = await built.taken(token, subject_token=built.token(lives=60 * SECOND))
        assert second.opened.expires_at == built.clock.now() + 60 * SECOND


async def test_other_claims_at_a_take_over_hold_for_what_is_live(policy: Path) -> None:
    async with heart(directory=policy) as built:
        first = await built.open(subject_token=built.token(department="support", groups=["a"]))
        step = await built.granted(first, "orders.get", ORDER)
        rules = (policy / "subjects.cedar").read_text()
        (policy / "subjects.cedar").write_text(
            rules
            + """
@id("no-b") @reason("Not with b.") forbid (principal, action == Action::"orders.get", resource)
when { context has subject && context.subject has groups && context.subject.groups.contains("b") };"""
        )
        await built.operating.reload_policy(OPERATOR)
        assert built.state.grants[step.grant_id].live
        pushed: list[object] = []
        await built.taken(first.resume_token(), subject_token=built.token(groups=["b"]), pushed=pushed)
        assert not built.state.grants[step.grant_id].live
        assert built.state.grants[step.grant_id].code == "subject_changed"
