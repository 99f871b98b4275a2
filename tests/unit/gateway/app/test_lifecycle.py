"""Tasks and steps as one stream sees them."""

from datetime import timedelta

import pytest

from stepgrant.errors import Denial, DenialCode, ProtocolError, TaskClosedError
from stepgrant.intent import from_python
from stepgrant.selector import Selector
from stepgrant_gateway.app.open_tasks import MAX_LATE_REPORTS
from stepgrant_gateway.core.boundary import OpenTask, Outcome, ReportStep, StepEnded, TaskClosed
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.ledger import decode_event
from stepgrant_gateway.core.steps import StepState
from tests.kit.heart import AGENT, OPERATOR, REFUND, TRIAGE, heart


async def opened_as(built, task_type: str, parameters: dict[str, object], workload: str):
    request = OpenTask(task_type, from_python(parameters), "a test", b"k" * 32)
    return await built.tasks.open(built.peer(workload), request, built.pushed.append)


async def test_opening_offers_the_tools_that_the_type_could_be_permitted() -> None:
    async with heart() as built:
        lease = await built.open()
        assert {offer.tool for offer in lease.opened.tools} >= {"orders.get", "orders.refund", "mail.send"}
        assert lease.opened.expires_at == built.clock.now() + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("task_type", "parameters", "workload"),
    [
        ("Triage", {"mailbox": "support"}, AGENT),
        ("Refund", REFUND, TRIAGE),
        ("Nonsense", {}, AGENT),
        ("Triage", {"mailbox": 7}, AGENT),
    ],
)
async def test_inv_12_what_a_workload_may_not_open_answers_the_same_whether_it_exists_or_not(
    task_type: str, parameters: dict[str, object], workload: str
) -> None:
    async with heart() as built:
        denial = await opened_as(built, task_type, parameters, workload)
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.NO_PERMIT
        assert denial.argument == ""
        assert not built.state.tasks


async def test_who_may_open_the_type_learns_what_is_wrong_with_its_parameters() -> None:
    async with heart() as built:
        denial = await opened_as(built, "Refund", {**REFUND, "order_id": "42"}, AGENT)
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.ARGUMENTS_INVALID
        assert denial.argument == "order_id"


async def test_a_report_ends_the_step_once_and_a_late_one_changes_nothing() -> None:
    """INV-05."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        report = ReportStep(step.step_id, Outcome.COMPLETED, None, "")
        assert lease.report(report).state == "completed"
        late = lease.report(ReportStep(step.step_id, Outcome.FAILED, None, "ValueError"))
        assert (late.state, late.late) == ("completed", True)
        assert built.feed.revoked(step.grant_id).code == "completed"


async def test_a_report_for_a_step_that_was_never_declared_is_a_protocol_error() -> None:
    async with heart() as built:
        lease = await built.open()
        unknown = built.intent("orders.get", {}).step_id
        with pytest.raises(ProtocolError, match=unknown):
            lease.report(ReportStep(unknown, Outcome.COMPLETED, None, ""))


async def test_a_lost_stream_kills_every_grant_of_its_task() -> None:
    async with heart() as built:
        lease = await built.open()
        first = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        second = await built.granted(lease, "orders.search", {"query": "shoes"})
        lease.lost("stream_lost", "the stream ended.")
        assert built.feed.revoked(first.grant_id) is not None
        assert built.feed.revoked(second.grant_id) is not None
        with pytest.raises(TaskClosedError):
            await lease.declare(built.intent("orders.get", {"order_id": "ord_00000042"}))


async def test_a_task_ends_at_its_max_age_and_all_its_grants_with_it() -> None:
    """INV-04."""
    async with heart() as built:
        lease = await built.open()
        built.clock.advance(timedelta(minutes=14, seconds=50))
        step = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        assert step.expires_at == lease.opened.expires_at
        built.clock.advance(timedelta(seconds=10))
        assert [type(item) for item in built.pushed] == [StepEnded, TaskClosed]
        assert built.pushed[-1].code == "task_expired"


async def test_a_task_ends_with_the_svid_of_its_stream() -> None:
    """INV-04."""
    async with heart() as built:
        lease = await built.open(peer=built.peer(lives=timedelta(seconds=10)))
        step = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        assert step.expires_at <= built.clock.now() + timedelta(seconds=10)
        built.clock.advance(timedelta(seconds=10))
        assert built.pushed[-1] == TaskClosed(
            "identity_expired", "the SVID of the stream has expired; open the task anew with the next one."
        )


async def test_a_draining_gateway_ends_its_tasks_and_takes_no_new_one() -> None:
    async with heart() as built:
        await built.open()
        built.tasks.drain()
        assert built.pushed[-1].code == "draining"
        denial = await opened_as(built, "Refund", REFUND, AGENT)
        assert isinstance(denial, Denial)
        assert denial.code is DenialCode.OVERLOADED


async def test_labels_of_an_earlier_task_of_the_same_instance_are_remembered_within_the_window() -> None:
    async with heart() as built:
        first = await built.open()
        await built.granted(first, "orders.get", {"order_id": "ord_00000042"})
        first.close(Outcome.COMPLETED)
        await built.open()
        await built.open(jkt=b"o" * 32)
        same, other = built.operating.tasks()
        assert same.labels == ("confidential",)
        assert other.labels == ()
        built.clock.advance(timedelta(minutes=75, seconds=1))
        await built.open(peer=built.peer())
        assert built.operating.tasks()[-1].labels == ()


async def test_inv_12_who_may_not_open_a_type_does_not_learn_that_it_is_locked() -> None:
    async with heart() as built:
        await built.operating.set_lock(Selector(task_type="Refund"), "a secret incident", OPERATOR)
        denial = await opened_as(built, "Refund", REFUND, TRIAGE)
        assert isinstance(denial, Denial)
        assert (denial.code, denial.reason) == (
            DenialCode.NO_PERMIT,
            (await opened_as(built, "Nonsense", {}, TRIAGE)).reason,
        )
        own = await opened_as(built, "Refund", REFUND, AGENT)
        assert (own.code, "a secret incident" in own.reason) == (DenialCode.LOCKED, True)


async def test_an_agent_cannot_fill_the_ledger_with_late_reports() -> None:
    """INV-03: ends are recorded whatever happens, so there is an end to their number."""
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        report = ReportStep(step.step_id, Outcome.COMPLETED, None, "")
        for _ in range(50):
            lease.report(report)
        await built.granted(lease, "orders.search", {"query": "shoes"})
        recorded = [decode_event(record.body).type for record in built.store.read(built.instance, 0, 1000)]
        assert recorded.count(EventType.STEP_LATE_OUTCOME) == MAX_LATE_REPORTS


async def test_children_of_a_task_that_ends_end_for_its_reason() -> None:
    """INV-05: one reason, and a lost stream is `abandoned`."""
    async with heart() as built:
        lease = await built.open()
        await built.looked_up(lease)
        parent = await built.granted(lease, "orders.refund", {"order_id": "ord_00000042", "amount": 40})
        child = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"}, parent=parent.step_id)
        steps = built.state.tasks[lease.opened.task_id].shared.steps
        lease.lost("stream_lost", "the stream ended.")
        assert {steps[one.step_id].state for one in (parent, child)} == {StepState.ABANDONED}
