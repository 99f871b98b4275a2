"""What nobody vouches for, in a ledger that the application itself has written."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.selector import Selector
from stepgrant_gateway.app.auditing import read_all
from stepgrant_gateway.app.gaps import find_gaps
from stepgrant_gateway.core.boundary import Outcome, ReportStep, StepGranted
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import EventType
from tests.kit.heart import OPERATOR, ORDERS, Heart, heart

ORDER = {"order_id": "ord_00000042"}
DONE, FAILED = Outcome.COMPLETED, Outcome.FAILED
RESULT, OTHER = b"r" * 32, b"o" * 32
USE, RUN_OUT, LOSE, LOCK, NOTHING = "use", "run out", "lose", "lock", ""


def said(outcome: Outcome, result: bytes | None = None) -> tuple[str, Outcome, bytes | None]:
    """The agent's word."""
    return ("said", outcome, result)


def seen(outcome: Outcome, result: bytes | None = None) -> tuple[str, Outcome, bytes | None]:
    """The resource's word."""
    return ("seen", outcome, result)


async def happen(built: Heart, lease, step: StepGranted, what) -> None:
    match what:
        case "use":
            assert (await built.redeeming.redeem(ORDERS, ORDERS, step.grant_id, "0" * 26)).accepted
        case "run out":
            built.clock.advance(timedelta(seconds=31))
        case "lose":
            lease.lost("stream_lost", "the stream ended.")
        case "lock":
            await built.operating.set_lock(Selector(tool="orders.*"), "An incident.", OPERATOR)
        case ("said", outcome, result):
            lease.report(ReportStep(step.step_id, outcome, result, ""))
        case ("seen", outcome, result):
            await built.redeeming.attest(ORDERS, ORDERS, step.grant_id, outcome, result)


async def gaps(built: Heart) -> list[tuple[str, str, bool]]:
    await built.journal.record_end().durable()
    return [(gap.gap.value, gap.state, gap.used) for gap in find_gaps(read_all(built.store))]


@pytest.mark.parametrize(
    ("course", "gap"),
    [
        ((USE, said(DONE)), None),
        ((USE, seen(DONE, RESULT), said(DONE, RESULT)), None),
        ((USE, seen(DONE, RESULT), said(DONE)), None),
        ((said(FAILED),), None),
        ((USE,), None),
        ((USE, RUN_OUT), ("unreported", "expired", True)),
        ((RUN_OUT,), ("unreported", "expired", False)),
        ((USE, LOSE), ("unreported", "abandoned", True)),
        ((USE, LOCK), ("unreported", "revoked", True)),
        ((LOCK,), None),
        ((USE, RUN_OUT, said(DONE)), None),
        ((said(DONE),), ("unwitnessed", "completed", False)),
        ((RUN_OUT, said(DONE)), ("unwitnessed", "expired", False)),
        ((USE, said(DONE, RESULT), seen(DONE, OTHER)), ("contradicted", "completed", True)),
        ((USE, said(DONE), seen(FAILED)), ("contradicted", "completed", True)),
        ((USE, RUN_OUT, said(FAILED), seen(DONE)), ("contradicted", "expired", True)),
    ],
)
async def test_sm_10_a_report_that_is_missing_late_or_forged_is_a_gap_in_the_audit(course, gap) -> None:
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        for what in course:
            await happen(built, lease, step, what)
        assert await gaps(built) == ([gap] if gap else [])


async def test_sm_10_a_grant_without_counted_uses_needs_no_witness_and_still_a_report() -> None:
    async with heart() as built:
        lease = await built.open()
        reported, silent = [await built.granted(lease, "orders.search", {"query": "shoes"}) for _ in range(2)]
        lease.report(ReportStep(reported.step_id, DONE, None, ""))
        await built.operating.set_lock(Selector(tool="orders.search"), "An incident.", OPERATOR)
        assert await gaps(built) == [("unreported", "revoked", False)]
        assert silent.uses is None


async def test_sm_10_what_only_the_agent_says_counts_as_reported_and_never_as_completed() -> None:
    async with heart() as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.get", ORDER)
        lease.report(ReportStep(step.step_id, DONE, RESULT, ""))
        task = built.state.tasks[lease.opened.task_id]
        assert (task.shared.reported, task.shared.completed) == ({"orders.get"}, set())
        refund = await lease.declare(built.intent("orders.refund", {**ORDER, "amount": 40}))
        assert not isinstance(refund, StepGranted)


async def test_an_event_without_what_its_type_holds_is_named_not_skipped() -> None:
    async with heart() as built:
        await built.granted(await built.open(), "orders.get", ORDER)
        stored = [item for item in read_all(built.store) if item.event.type is EventType.STEP_GRANTED]
        bare = replace(stored[0], event=replace(stored[0].event, data={"task": "t"}))
        with pytest.raises(LedgerBrokenError, match=r"step\.granted"):
            list(find_gaps([bare]))
