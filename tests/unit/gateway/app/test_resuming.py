"""Taking a task up again: by whom, how often, for how long, and what comes along."""

import asyncio
from datetime import timedelta

import pytest

from stepgrant.errors import Denial, DenialCode, TaskClosedError
from stepgrant.grant import Tier, from_payload
from stepgrant.selector import Selector
from stepgrant_gateway.app import granting
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.boundary import Outcome, ReportStep, TaskClosed
from stepgrant_gateway.core.grants import MAX_LINGER
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import OPERATOR, ORDERS, REFUND, TRIAGE, Heart, heart
from tests.kit.tokens import payload_of

ORDER = {"order_id": "ord_00000042"}
SECOND = timedelta(seconds=1)


async def refused(built: Heart, token: bytes, **more: object) -> Denial:
    answer = await built.take(token, **more)  # type: ignore[arg-type]
    assert isinstance(answer, Denial), answer
    return answer


def lose(lease: TaskLease) -> None:
    lease.lost("stream_lost", "the agent's stream ended")


async def test_a_task_whose_stream_was_lost_is_taken_up_with_all_that_it_had_done() -> None:
    async with heart() as built:
        first = await built.open()
        await built.looked_up(first)
        refund = await built.granted(first, "orders.refund", {**ORDER, "amount": 300})
        token = first.resume_token()
        lose(first)
        assert built.feed.revoked(refund.grant_id).code == "stream_lost"
        built.clock.advance(MAX_LINGER - SECOND)

        second = await built.taken(token)
        assert (second.opened.task_id, second.opened.live_steps) == (first.opened.task_id, ())
        [view] = built.operating.tasks()
        assert view.labels == ("confidential",)
        # `orders.get` is still completed, and 300 of the 500 of this task are spent.
        again = await second.declare(built.intent("orders.refund", {**ORDER, "amount": 300}))
        assert again.code is DenialCode.BUDGET_EXHAUSTED
        assert [event.type.value for event in await built.recorded()].count("task.taken_up") == 1


async def test_inv_05_a_step_that_ended_with_its_stream_stays_ended_when_the_task_is_taken_up() -> None:
    async with heart() as built:
        first = await built.open()
        step = await built.granted(first, "orders.get", ORDER)
        token = first.resume_token()
        lose(first)
        second = await built.taken(token)
        denial = await second.renew(step.step_id)
        assert (denial.code, "abandoned" in denial.reason) == (DenialCode.STEP_ENDED, True)
        assert second.report(ReportStep(step.step_id, Outcome.COMPLETED, None, "")).late


async def test_a_task_that_nobody_takes_up_within_its_linger_ends() -> None:
    async with heart() as built:
        lease = await built.open()
        token = lease.resume_token()
        lose(lease)
        built.clock.advance(MAX_LINGER)
        assert not built.state.tasks
        assert not built.state.resumable
        assert (await refused(built, token)).code is DenialCode.RESUME_REFUSED
        closed = [event for event in await built.recorded() if event.type.value == "task.closed"]
        assert [event.data["code"] for event in closed] == ["stream_lost"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": b"w" * 32},
        {"peer": TRIAGE},
        {"jkt": b"o" * 32},
        {"task_type": "Triage"},
        {"parameters": {**REFUND, "order_id": "ord_00000043"}},
    ],
    ids=["token", "workload", "instance key", "task type", "parameters"],
)
@pytest.mark.parametrize("lost", [True, False])
async def test_sm_03_only_who_had_the_task_takes_it_up_and_nobody_learns_what_was_wrong(
    wrong: dict[str, object], lost: bool
) -> None:
    async with heart() as built:
        lease = await built.open()
        token = lease.resume_token()
        if lost:
            lose(lease)
        if "peer" in wrong:
            wrong = {"peer": built.peer(str(wrong["peer"]))}
        denial = await refused(built, **{"token": token, **wrong})
        nothing = await refused(built, b"n" * 32)
        assert (denial.code, denial.reason, denial.next) == (nothing.code, nothing.reason, nothing.next)
        assert denial.code is DenialCode.RESUME_REFUSED
        # Who fails takes nothing away from who may.
        assert (await built.taken(token)).opened.task_id == lease.opened.task_id


async def test_sm_03_a_token_is_good_once_and_the_next_one_is_another() -> None:
    async with heart() as built:
        lease = await built.open()
        token = lease.resume_token()
        second = await built.taken(token)
        assert (await refused(built, token)).code is DenialCode.RESUME_REFUSED
        newer = second.resume_token()
        assert newer != token
        third = await built.taken(newer)
        assert third.opened.task_id == lease.opened.task_id
        assert token not in built.state.resumable


async def test_sm_03_of_two_who_come_at_once_one_has_the_task() -> None:
    async with heart() as built:
        lease = await built.open()
        token = lease.resume_token()
        answers = await asyncio.gather(*(built.take(token) for _ in range(8)))
        assert [type(answer) for answer in answers].count(TaskLease) == 1


@pytest.mark.parametrize("end", ["closed", "expired", "identity", "broken", "draining"])
async def test_a_task_that_ended_for_any_other_reason_is_never_taken_up(end: str) -> None:
    async with heart() as built:
        lease = await built.open(peer=built.peer(lives=timedelta(minutes=20)))
        token = lease.resume_token()
        match end:
            case "closed":
                lease.close(Outcome.COMPLETED)
            case "expired":
                built.clock.advance(timedelta(minutes=15))
            case "identity":
                lease.lost("identity_lost", "its authority is out of the bundle")
            case "broken":
                lease.lost("stream_broken", "a message that the protocol does not allow")
            case _:
                built.tasks.drain()
                built.state.draining = False
        assert (await refused(built, token)).code is DenialCode.RESUME_REFUSED


async def test_taking_up_is_a_decision_and_a_lock_denies_it() -> None:
    async with heart() as built:
        lease = await built.open()
        token = lease.resume_token()
        lose(lease)
        locked = await built.operating.set_lock(Selector(task_type="Refund"), "an incident", OPERATOR)
        assert (await refused(built, token)).code is DenialCode.LOCKED
        await built.operating.lift_lock(locked.lock.lock_id, "over", OPERATOR)
        await built.taken(token)
        denied = [event for event in await built.recorded() if event.type.value == "task.denied"]
        assert [(event.data["code"], event.data["resume"]) for event in denied] == [("locked", True)]


async def test_the_least_linger_of_the_tiers_that_were_granted_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier whose linger is nothing, as `privileged` is going to be: such a task is over with its stream."""
    monkeypatch.setattr(granting, "LINGER", {**granting.LINGER, Tier.SENSITIVE: timedelta(0)})
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        await built.granted(lease, "orders.refund", {**ORDER, "amount": 10})
        token = lease.resume_token()
        lose(lease)
        assert not built.state.tasks
        assert (await refused(built, token)).code is DenialCode.RESUME_REFUSED


async def test_a_gateway_that_lets_nothing_linger_ends_the_task_with_its_stream() -> None:
    async with heart() as built:
        built.state.linger = timedelta(0)
        lose(await built.open())
        assert not built.state.tasks


async def test_a_task_that_lingers_does_not_outlive_its_max_age() -> None:
    """INV-04."""
    async with heart() as built:
        lease = await built.open()
        built.clock.advance(timedelta(minutes=15) - SECOND)
        lose(lease)
        built.clock.advance(SECOND)
        assert not built.state.tasks


async def test_a_take_over_moves_live_steps_without_minting_and_closes_the_old_stream() -> None:
    async with heart() as built:
        first = await built.open()
        step = await built.granted(first, "orders.get", ORDER)
        pushed: list[object] = []
        second = await built.taken(first.resume_token(), peer=built.peer(leaf=b"next"), pushed=pushed)
        assert second.opened.live_steps == (step.step_id,)
        assert [(type(item), item.code) for item in built.pushed] == [(TaskClosed, "taken_over")]
        assert built.feed.revoked(step.grant_id) is None
        redeemed = await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, step.step_id)
        assert redeemed.accepted
        assert second.report(ReportStep(step.step_id, Outcome.COMPLETED, None, "")).state == "completed"
        assert [event.type.value for event in await built.recorded() if event.data.get("task") == first.opened.task_id] == [
            "task.opened", "step.granted", "task.taken_over", "grant.redeemed", "step.ended",
        ]  # fmt: skip


async def test_a_lease_that_was_taken_over_is_void() -> None:
    async with heart() as built:
        first = await built.open()
        step = await built.granted(first, "orders.get", ORDER)
        second = await built.taken(first.resume_token())
        for work in (
            lambda: first.declare(built.intent("orders.get", ORDER)),
            lambda: first.renew(step.step_id),
            lambda: first.report(ReportStep(step.step_id, Outcome.FAILED, None, "")),
            lambda: first.close(Outcome.FAILED),
        ):
            with pytest.raises(TaskClosedError, match="taken over"):
                await work()
        lose(first)
        first.lost("stream_broken", "an error")
        assert [view.state for view in built.operating.steps(second.opened.task_id)] == ["granted"]


async def test_inv_04_a_step_that_was_moved_stays_bound_to_the_old_svid_and_ends_with_it() -> None:
    async with heart() as built:
        old, new = built.peer(lives=timedelta(seconds=40)), built.peer(leaf=b"next")
        first = await built.open(peer=old)
        step = await built.granted(first, "orders.search", {"query": "shoes"})
        second = await built.taken(first.resume_token(), peer=new)
        assert second.opened.expires_at > old.not_after
        built.clock.advance(timedelta(seconds=25))
        renewed = await second.renew(step.step_id)
        assert renewed.expires_at == old.not_after
        assert from_payload(payload_of(renewed.token)).confirmation == old.credential_sha256
        fresh = await built.granted(second, "orders.search", {"query": "shoes"})
        assert from_payload(payload_of(fresh.token)).confirmation == new.credential_sha256
        assert fresh.expires_at > old.not_after


async def test_inv_07_steps_of_an_svid_that_no_longer_verifies_end_after_a_take_over_as_well() -> None:
    async with heart() as built:
        first = await built.open(peer=built.peer(leaf=b"old"))
        moved = await built.granted(first, "orders.get", ORDER)
        second = await built.taken(first.resume_token(), peer=built.peer(leaf=b"new"))
        fresh = await built.granted(second, "orders.get", ORDER)
        first.lost("identity_lost", "its authority is out of the bundle")
        assert built.feed.revoked(moved.grant_id).code == "identity_lost"
        assert built.feed.revoked(fresh.grant_id) is None


async def test_the_watch_over_the_old_svid_lasts_as_long_as_a_step_that_was_granted_to_it() -> None:
    async with heart() as built:
        ended: list[str] = []
        first = await built.open(peer=built.peer(leaf=b"old"))
        step = await built.granted(first, "orders.get", ORDER)
        second = await built.taken(first.resume_token(), peer=built.peer(leaf=b"new"))
        first.when_released(lambda: ended.append("first"))
        await built.recorded()
        third = await built.taken(second.resume_token(), peer=built.peer(leaf=b"third"))
        second.when_released(lambda: ended.append("second"))
        assert ended == ["second"]
        third.report(ReportStep(step.step_id, Outcome.COMPLETED, None, ""))
        await built.recorded()
        fourth = await built.taken(third.resume_token())
        assert ended == ["second", "first"]
        fourth.when_released(lambda: ended.append("fourth"))
        assert ended[-1] == "fourth"


async def test_sm_03_an_svid_is_watched_once_however_often_its_task_is_taken_over() -> None:
    """Else an agent that takes its task over again and again would have the gateway keep each of its streams."""
    async with heart() as built:
        ended: list[int] = []
        peer = built.peer()
        leases = [await built.open(peer=peer)]
        step = await built.granted(leases[0], "orders.get", ORDER)
        for number in range(5):
            leases.append(await built.taken(leases[-1].resume_token(), peer=peer))
            leases[number].when_released(lambda number=number: ended.append(number))
            await built.recorded()
        assert ended == [1, 2, 3, 4]
        leases[0].lost("identity_lost", "its authority is out of the bundle")
        assert built.feed.revoked(step.grant_id).code == "identity_lost"


async def test_a_declare_that_is_under_way_at_a_take_over_is_answered_and_its_step_moves() -> None:
    store = FaultyStore()
    async with heart(store) as built:
        first = await built.open()
        token = first.resume_token()
        store.block()
        declaring = asyncio.ensure_future(first.declare(built.intent("orders.get", ORDER)))
        await asyncio.sleep(0)
        second = await built.taken(token)
        store.free.set()
        granted = await declaring
        assert second.opened.live_steps == (granted.step_id,)
        assert second.report(ReportStep(granted.step_id, Outcome.COMPLETED, None, "")).state == "completed"


async def test_inv_03_what_a_take_over_is_followed_by_is_not_granted_before_it_is_recorded() -> None:
    store = FaultyStore()
    async with heart(store) as built:
        first = await built.open()
        token = first.resume_token()
        store.refuse = True
        second = await built.taken(token)
        declaring = asyncio.ensure_future(second.declare(built.intent("orders.get", ORDER)))
        answer = await built.while_time_passes(declaring)
        assert answer.code is DenialCode.UNRECORDED
        # Nor does it pile up: the next one waits until this one is on record.
        assert (await built.while_time_passes(built.take(second.resume_token()))).code is DenialCode.OVERLOADED
        store.refuse = False


async def test_sm_03_only_the_latest_token_of_a_stream_is_good() -> None:
    async with heart() as built:
        lease = await built.open()
        earlier, latest = lease.resume_token(), lease.resume_token()
        assert (await refused(built, earlier)).code is DenialCode.RESUME_REFUSED
        assert len(built.state.resumable) == 1
        await built.taken(latest)
