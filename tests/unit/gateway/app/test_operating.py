"""Locks and reloads."""

import shutil
from pathlib import Path

from stepgrant.errors import Denial, DenialCode
from stepgrant.selector import Selector
from stepgrant_gateway.app.restoring import restore
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.core.ledger import decode_event
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import AGENT, OPERATOR, SUPPORT, heart, support_policy

ORDER = {"order_id": "ord_00000042"}


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
        assert built.feed.revoked(step.grant_id).code == "locked"
        assert built.feed.revoked(search.grant_id) is None
        denial = await lease.declare(built.intent("orders.get", ORDER))
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.LOCKED
        assert "stock-taking" in denial.reason
        await built.operating.lift_lock(answer.lock.lock_id, "done", OPERATOR)
        await built.granted(lease, "orders.get", ORDER)


async def test_a_lock_on_a_workload_path_keeps_its_tasks_from_opening() -> None:
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
        assert built.feed.revoked(step.grant_id).at == answer.lock.issued_at
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
        assert state.memory[AGENT].keys() == {"confidential"}
        assert [event.data.get("state") for event in ends] == ["abandoned", None]
