"""Locks and reloads."""

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant.selector import Selector
from stepgrant_gateway.app.operating import MAX_RECORDED_FINDINGS
from stepgrant_gateway.app.restoring import restore
from stepgrant_gateway.core.boundary import Outcome
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.core.ledger import decode_event
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import AGENT, OPERATOR, SUPPORT, heart, support_policy

ORDER = {"order_id": "ord_00000042"}


def events(built) -> list[Event]:
    """What is on record."""
    return [decode_event(record.body) for record in built.store.read(built.instance, 0, 1000)]


def copy_of_support(to: Path) -> Path:
    return Path(shutil.copytree(SUPPORT, to / "policy"))


async def test_a_lock_ends_what_it_matches_at_once_and_denies_it_from_then_on() -> None:
    """INV-07."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        search = await built.granted(lease, "orders.search", {"query": "shoes"})
        answer = await built.operating.set_lock(Selector(tool="orders.get"), "stock-taking", OPERATOR)
        assert (answer.durable, answer.ended_steps) == (True, 1)
        assert (built.pushed[-1].step_id, built.pushed[-1].code) == (step.step_id, "locked")
        assert built.state.grants[step.grant_id].code == "locked"
        assert built.state.grants[search.grant_id].live
        denial = await lease.declare(built.intent("orders.get", ORDER))
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.LOCKED
        assert "stock-taking" in denial.reason
        await built.operating.lift_lock(answer.lock.lock_id, "done", OPERATOR)
        await built.granted(lease, "orders.get", ORDER)


async def test_inv_05_what_a_lock_ended_stays_dead_although_the_clock_went_back_a_little_before_it() -> None:
    """A second is no more than a clock is disciplined by, so keys and feed go on; once the lock is lifted its time counts."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        issued_at = built.state.grants[step.grant_id].held.lifetime.issued_at
        built.clock.set_wall(built.clock.now() - timedelta(seconds=1.5))
        answer = await built.operating.set_lock(Selector(tool="orders.get"), "stock-taking", OPERATOR)
        await built.operating.lift_lock(answer.lock.lock_id, "done", OPERATOR)
        [lifted] = built.state.lifted
        assert issued_at <= lifted.refuse_issued_until
        assert lifted.forget_at >= step.expires_at


async def test_rv_11_a_lock_on_a_workload_path_acts_although_its_svid_is_valid() -> None:
    async with heart() as built:
        await built.operating.set_lock(Selector(workload="spiffe://dev.stepgrant.test/agent"), "incident", OPERATOR)
        built.pushed.clear()
        try:
            await built.open()
        except AssertionError as error:
            assert "LOCKED" in str(error)  # noqa: PT017 - open() of the kit asserts that it was granted
        else:
            raise AssertionError("the task was opened")


async def test_a_lock_is_in_force_before_it_is_recorded_and_says_so() -> None:
    """INV-03: ends do not wait for the ledger."""
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        store.refuse = True
        setting = built.operating.set_lock(Selector(workload=AGENT), "incident", OPERATOR)
        answer = await built.while_time_passes(setting)
        assert (answer.durable, answer.ended_steps) == (False, 1)
        assert built.state.grants[step.grant_id].code == "locked"
        store.refuse = False


async def test_a_reload_ends_the_live_steps_that_the_new_set_does_not_permit(tmp_path: Path) -> None:
    """INV-07."""
    directory = copy_of_support(tmp_path)
    async with heart(directory=directory) as built:
        lease = await built.open()
        await built.granted(lease, "orders.get", ORDER)
        search = await built.granted(lease, "orders.search", {"query": "shoes"})
        before = built.state.policy.digest
        (directory / "stop.cedar").write_text(
            '@id("no-search") @reason("Search is closed.")\n'
            'forbid (principal, action == Action::"orders.search", resource);\n'
        )
        for case in (directory / "tests").iterdir():
            case.unlink()
        reloaded = await built.operating.reload_policy(OPERATOR)
        assert reloaded.findings == ()
        assert reloaded.activated
        assert reloaded.ended_steps == 1
        assert built.state.policy.digest == reloaded.policy_digest != before
        assert (built.pushed[-1].step_id, built.pushed[-1].code) == (search.step_id, "policy_changed")


async def test_a_broken_directory_is_refused_and_the_running_set_stays(tmp_path: Path) -> None:
    """INV-01."""
    directory = copy_of_support(tmp_path)
    async with heart(directory=directory) as built:
        before = built.state.policy
        (directory / "open.cedar").write_text('@id("open")\npermit (principal, action, resource);\n')
        reloaded = await built.operating.reload_policy(OPERATOR)
        assert not reloaded.activated
        assert any(finding.file == "open.cedar" and finding.policy_id == "open" for finding in reloaded.findings)
        assert built.state.policy is before


async def test_locks_labels_and_budgets_survive_a_restart_and_old_steps_are_abandoned() -> None:
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        await built.granted(lease, "mail.send", {"to": ["jo@x.org"], "subject": "s", "body": "b"})
        answer = await built.operating.set_lock(Selector(tool="mail.read"), "incident", OPERATOR)
        records = built.store.read(built.instance, 0, 1000)
        history = fold(decode_event(record.body) for record in records)
        state = type(built.state)(support_policy())
        ends = restore(state, history, built.clock.now())
        assert list(state.locks) == [answer.lock.lock_id]
        assert state.books["mails", AGENT].total == 1
        assert state.memory.workloads[AGENT].keys() == {"confidential"}
        assert [event.data.get("state") for event in ends] == ["abandoned", None]


async def test_a_directory_with_more_findings_than_a_record_holds_is_refused_and_the_ledger_goes_on(
    tmp_path: Path,
) -> None:
    """INV-03: an end that cannot be recorded closes the ledger, so a broken directory must fit into one."""
    directory = copy_of_support(tmp_path)
    async with heart(directory=directory) as built:
        names = (f"{'f' * 200}{number}" for number in range(600))
        (directory / "many.cedar").write_text(
            "".join(f'@id("{name}")\npermit (principal, action, resource);\n' for name in names)
        )
        reloaded = await built.operating.reload_policy(OPERATOR)
        assert len(reloaded.findings) > MAX_RECORDED_FINDINGS
        lease = await built.open()
        await built.granted(lease, "orders.get", ORDER)
        refused = [event for event in events(built) if event.type is EventType.POLICY_REFUSED]
        assert refused[0].data["found"] == len(reloaded.findings)


@pytest.mark.parametrize("operation", ["reload", "lift"])
async def test_what_an_operator_began_is_finished_also_when_the_operator_hangs_up(
    operation: str, tmp_path: Path
) -> None:
    """INV-14: what the ledger says is what is in force."""
    store = FaultyStore()
    directory = copy_of_support(tmp_path)
    async with heart(store, directory) as built:
        lock = (await built.operating.set_lock(Selector(tool="mail.read"), "incident", OPERATOR)).lock
        (directory / "more.cedar").write_text(
            '@id("more")\nforbid (principal, action == Action::"mail.read", resource);\n'
        )
        for case in (directory / "tests").iterdir():
            case.unlink()
        before = built.state.policy.digest
        store.block()
        work = built.operating.reload_policy(OPERATOR) if operation == "reload" else None
        asking = asyncio.ensure_future(work or built.operating.lift_lock(lock.lock_id, "over", OPERATOR))
        assert await asyncio.to_thread(store.entered.wait, 20)
        asking.cancel()
        await asyncio.wait([asking])
        store.free.set()
        async with asyncio.timeout(5):
            while built.state.policy.digest == before and built.state.locks:
                await built.journal.record(built.operating.activation(built.state.policy, "a test")).durable()


async def test_a_lock_that_could_not_be_lifted_on_record_is_there_after_a_restart() -> None:
    """INV-03: the record may become durable after its caller was told that it had not."""
    store = FaultyStore()
    async with heart(store) as built:
        lock = (await built.operating.set_lock(Selector(tool="mail.read"), "incident", OPERATOR)).lock
        store.block()
        lifting = built.operating.lift_lock(lock.lock_id, "over", OPERATOR)
        with pytest.raises(UnrecordedError):
            await built.while_time_passes(lifting)
        store.free.set()
        await built.journal.record(built.operating.activation(built.state.policy, "a test")).durable()
        assert [event.type for event in events(built)].count(EventType.LOCK_LIFTED) == 1
        assert list(fold(events(built)).locks) == list(built.state.locks) == [lock.lock_id]


async def test_a_reload_ends_a_step_whose_children_get_other_bounds(tmp_path: Path) -> None:
    """INV-09: no child is measured by an envelope that the catalog no longer gives."""
    directory = copy_of_support(tmp_path)
    async with heart(directory=directory) as built:
        lease = await built.open()
        await built.looked_up(lease)
        step = await built.granted(lease, "orders.refund", {**ORDER, "amount": 40})
        for case in (directory / "tests").iterdir():
            case.unlink()
        catalog = directory / "catalog.yaml"
        catalog.write_text(
            catalog.read_text().replace('orders.get: {order_id: "{order_id}"}', "orders.search: {query: any}")
        )
        reloaded = await built.operating.reload_policy(OPERATOR)
        assert reloaded.activated, reloaded.findings
        assert built.pushed[-1].step_id == step.step_id


async def test_a_step_that_cannot_be_looked_at_anew_ends_and_the_others_are_looked_at(tmp_path: Path) -> None:
    """INV-02 and INV-07."""
    directory = copy_of_support(tmp_path)
    async with heart(directory=directory) as built:
        lease = await built.open()
        await built.granted(lease, "orders.get", ORDER)
        await built.granted(lease, "orders.search", {"query": "shoes"})
        policy = built.state.policy

        class Failing:
            def __getattr__(self, name: str) -> object:
                return getattr(policy, name)

            def evaluate(self, question: object) -> object:
                raise RuntimeError(str(question)[:0])

        built.state.policy = Failing()
        assert built.endings.reconsider(built.state.tasks.values(), cause="policy_changed", by="a test") == 2
        built.state.policy = policy


async def test_a_restart_launders_no_label() -> None:
    """A task has its labels to its end; after a restart they reach as far as without one."""
    async with heart() as built:
        first = await built.open()
        await built.granted(first, "orders.get", ORDER)
        built.clock.advance(timedelta(minutes=14))
        closed_at = built.clock.now()
        first.close(Outcome.COMPLETED)
        await built.open()
        await built.journal.record(built.operating.activation(built.state.policy, "a test")).durable()
        history = fold(events(built))
        assert history.labels.workloads[AGENT] == {"confidential": closed_at}
        state = type(built.state)(support_policy())
        later = built.clock.now() + timedelta(minutes=50)
        restore(state, history, later)
        assert state.memory.workloads[AGENT] == {"confidential": later}


async def test_an_activation_that_was_too_late_is_not_the_last_word_on_record(tmp_path: Path) -> None:
    """INV-14: the record names the set that decides."""
    store = FaultyStore()
    directory = copy_of_support(tmp_path)
    async with heart(store, directory) as built:
        before = built.state.policy.digest
        (directory / "more.cedar").write_text(
            '@id("more")\nforbid (principal, action == Action::"mail.read", resource);\n'
        )
        for case in (directory / "tests").iterdir():
            case.unlink()
        store.block()
        reloading = asyncio.ensure_future(built.operating.reload_policy(OPERATOR))
        assert await asyncio.to_thread(store.entered.wait, 20)
        assert not (await built.while_time_passes(reloading)).activated
        store.free.set()
        await built.open()
        active = [event.data["policy"] for event in events(built) if event.type is EventType.POLICY_ACTIVATED]
        assert len(active) == 2
        assert active[-1] == built.state.policy.digest == before
