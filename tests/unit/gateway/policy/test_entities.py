"""One boundary as Cedar sees it, held to the derived schema by Cedar itself."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import cedarpy
import pytest

from stepgrant_gateway.core.decision import HandingOn, Question, StepFacts, TaskFacts
from stepgrant_gateway.policy.catalog import load_catalog
from stepgrant_gateway.policy.entities import UnrepresentableError, context_of, parties_of, workload_prefixes
from stepgrant_gateway.policy.reads import Reads
from stepgrant_gateway.policy.schema import derive_schema
from tests.kit.catalogs import admitted, catalog_files
from tests.kit.policy import desk_files

NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
AGENT = "spiffe://dev.stepgrant.test/agent/support/7"
CATALOG = load_catalog(catalog_files())
SCHEMA = cedarpy.Schema.from_str(derive_schema(CATALOG))
TASK = TaskFacts("01T", "Refund", AGENT, {"order_id": "ord_00000042", "customer": "jo@x.org"})
CALL = admitted(CATALOG, {"to": ["jo@x.org"], "subject": "s", "body": "b"}, "mail.send")
BUDGET = {"refunds": Decimal("0.5"), "mails": Decimal(1)}
QUESTION = Question(TASK, StepFacts(1), CALL, BUDGET, "x509", NOW)


def allowed(question, condition, scope="principal, action, resource"):
    parties = parties_of(CATALOG, question)
    policies = cedarpy.PolicySet.from_str(f"permit ({scope}) when {{ {condition} }};")
    entities = cedarpy.Entities.from_json_str(json.dumps(parties.entities), SCHEMA)
    result = cedarpy.is_authorized(parties.request(context_of(CATALOG, question)), policies, entities, SCHEMA)
    assert result.diagnostics.errors == []
    assert result.decision is not cedarpy.Decision.NoDecision
    return result.allowed


FULL = replace(
    QUESTION,
    task=replace(
        TASK,
        labels=frozenset(["untrusted"]),
        completed=frozenset(["orders.get"]),
        reported=frozenset(["orders.refund"]),
        denials=3,
        age=timedelta(seconds=90),
    ),
    step=StepFacts(2, "orders.refund", frozenset([AGENT])),
)


@pytest.mark.parametrize(
    "condition",
    [
        'principal.order_id == "ord_00000042" && !(principal has ticket)',
        'principal in TaskGroup::"support"',
        'principal in Workload::"spiffe://dev.stepgrant.test"',
        'principal in Workload::"spiffe://dev.stepgrant.test/agent"',
        f'principal in Workload::"{AGENT}"',
        'resource == Target::"mail://outbox" && resource in TargetGroup::"mail"',
        'context.args.to == ["jo@x.org"] && context.count.to == 1',
        "context.parts.to.address == [principal.customer]",
        'context.task.labels.contains(Label::"untrusted")',
        'context.task.completed == [Tool::"orders.get"] && context.task.reported.contains(Tool::"orders.refund")',
        'context.task.denials == 3 && context.task.age == duration("1m30s")',
        'context.step.depth == 2 && context.step.parent_tool == Tool::"orders.refund"',
        f'context.step.chain == ["{AGENT}"]',
        'context.budget.refunds == decimal("0.5") && context.budget.mails == 1',
        'context.peer.method == "x509" && !(context has subject)',
        'context.now == datetime("2026-11-21T12:00:00.123Z")',
    ],
)
def test_policy_sees_the_boundary(condition):
    scope = 'principal is Task::Refund, action == Action::"mail.send", resource'
    assert allowed(FULL, condition, scope)
    assert not allowed(FULL, f"!({condition})", scope)


@pytest.mark.parametrize(
    "condition",
    [
        'principal in Workload::"spiffe://dev.stepgrant.test/agent/sup"',
        'principal in Workload::"spiffe://dev.stepgrant.test/agent/support/7/x"',
        'principal in Workload::"spiffe://dev.stepgrant.tes"',
    ],
)
def test_workloads_are_matched_by_whole_segments(condition):
    assert not allowed(QUESTION, condition)


def test_an_action_lies_in_its_effects_and_its_server():
    assert allowed(QUESTION, "true", 'principal, action in Action::"egress", resource')
    assert allowed(QUESTION, "true", 'principal, action in Action::"mail.*", resource')
    assert not allowed(QUESTION, "true", 'principal, action in Action::"read", resource')


def test_opening_a_task_is_asked_of_the_gateway():
    opening = replace(QUESTION, call=None, step=StepFacts())
    assert allowed(opening, 'context.open.vouched_by == "agent"', 'principal, action == Action::"task.open", resource')
    assert allowed(opening, "context.budget.mails == 1", "principal, action, resource is Gateway")


def test_a_quote_in_a_value_stays_a_value():
    task = replace(TASK, task_id='x" || true || "', parameters={**TASK.parameters, "ticket": "AB-1"})
    assert allowed(replace(QUESTION, task=task), 'principal.ticket == "AB-1"')


@pytest.mark.parametrize(
    "question",
    [
        replace(QUESTION, budget={**BUDGET, "refunds": Decimal(10) ** 15}),
        replace(QUESTION, budget={**BUDGET, "refunds": Decimal("0.00001")}),
        replace(QUESTION, budget={**BUDGET, "mails": Decimal("0.5")}),
        replace(QUESTION, budget={"mails": Decimal(1)}),
        replace(QUESTION, task=replace(TASK, task_type="Gone")),
        replace(QUESTION, task=replace(TASK, parameters={"order_id": "ord_00000042"})),
        replace(QUESTION, task=replace(TASK, parameters={**TASK.parameters, "more": "x"})),
    ],
)
def test_inv_02_what_cedar_cannot_hold_is_no_request(question):
    """INV-02: an unrepresentable value is an error, and any error denies."""
    with pytest.raises(UnrepresentableError):
        parties_of(CATALOG, question).request(context_of(CATALOG, question))


def test_only_what_is_read_stands_in_the_context():
    reads = Reads({"budget": frozenset({"mails"}), "args": frozenset({"to", "cc"}), "peer": None})
    assert context_of(CATALOG, QUESTION, reads) == {
        "budget": {"mails": 1},
        "args": {"to": ["jo@x.org"]},
        "peer": {"method": "x509"},
    }
    assert context_of(CATALOG, QUESTION, Reads({})) == {}
    assert context_of(CATALOG, QUESTION).keys() == {"args", "parts", "count", "task", "step", "budget", "peer", "now"}


def test_inv_02_a_budget_that_cedar_cannot_hold_is_refused_although_nothing_reads_it():
    with pytest.raises(UnrepresentableError):
        context_of(CATALOG, replace(QUESTION, budget={**BUDGET, "refunds": Decimal(10) ** 15}), Reads({}))


def test_what_an_older_catalog_named_is_left_out():
    task = replace(TASK, labels=frozenset(["gone"]), completed=frozenset(["orders.gone"]), reported=frozenset(["x.y"]))
    question = replace(QUESTION, task=task, step=StepFacts(2, "orders.gone"))
    assert allowed(question, "context.task.labels.isEmpty() && context.task.completed.isEmpty()")
    assert allowed(question, "context.task.reported.isEmpty() && !(context.step has parent_tool)")


def test_prefixes_begin_with_the_trust_domain():
    assert workload_prefixes("spiffe://x/a/b") == ("spiffe://x", "spiffe://x/a", "spiffe://x/a/b")
    assert workload_prefixes("spiffe://x") == ("spiffe://x",)


DESK = load_catalog(desk_files())
TICKETS = "spiffe://dev.stepgrant.test/desk/tickets"


@pytest.mark.parametrize("assigning", [True, False])
def test_who_assigns_is_seen_with_all_that_it_lies_below_and_fits_the_schema(assigning):
    question = replace(
        QUESTION, step=StepFacts(), call=None, vouched_by="assignment", dispatcher=TICKETS, assigning=assigning
    )
    parties, context = parties_of(DESK, question), context_of(DESK, question)
    schema = cedarpy.Schema.from_str(derive_schema(DESK))
    entities = cedarpy.Entities.from_json_str(json.dumps(parties.entities), schema)
    assert parties.action["id"] == ("task.assign" if assigning else "task.open")
    seen = "context.assign.by" if assigning else "context.open.dispatcher"
    for within, holds in ((TICKETS, True), ("spiffe://dev.stepgrant.test/desk", True), (AGENT, False)):
        policy = f'permit (principal, action, resource) when {{ {seen} in Dispatcher::"{within}" }};'
        asked = cedarpy.is_authorized(parties.request(context), cedarpy.PolicySet.from_str(policy), entities, schema)
        assert (asked.allowed, asked.diagnostics.errors) == (holds, [])
    assert ("assign" in context, "open" in context) == (assigning, not assigning)
    narrow = context_of(DESK, question, Reads({"open": frozenset({"vouched_by"}), "assign": frozenset({"by"})}))
    assert narrow.get("open") == (None if assigning else {"vouched_by": "assignment"})


PAYMENTS = "spiffe://dev.stepgrant.test/agent/payments"
HANDING = replace(QUESTION, step=StepFacts(), call=None, handing_on=HandingOn(AGENT, PAYMENTS, "orders.refund"))
HAND_OFF = 'principal is Task::Refund, action == Action::"task.hand_off", resource is Gateway'


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (f'context.hand_off.to == Workload::"{PAYMENTS}"', True),
        ('context.hand_off.to in Workload::"spiffe://dev.stepgrant.test/agent"', True),
        ('context.hand_off.to in Workload::"spiffe://dev.stepgrant.test"', True),
        ('context.hand_off.to in Workload::"spiffe://dev.stepgrant.test/agent/pay"', False),
        (f'context.hand_off.to in Workload::"{AGENT}"', False),
        ('context.hand_off.from in Workload::"spiffe://dev.stepgrant.test/agent/support"', True),
        (f'context.hand_off.from in Workload::"{PAYMENTS}"', False),
        ('context.hand_off.tool == Tool::"orders.refund"', True),
        ('context.hand_off.tool == Tool::"orders.get"', False),
        (f'principal in Workload::"{AGENT}" && context.step.depth == 0', True),
        # The receiver is who it is asked about once, and never whom the task is in otherwise.
        (f'principal in Workload::"{PAYMENTS}"', False),
    ],
)
def test_who_hands_on_to_whom_is_seen_with_all_that_they_lie_below(condition, holds):
    assert allowed(HANDING, condition, HAND_OFF) is holds


@pytest.mark.parametrize(
    "receiver", [AGENT, f"{AGENT}/tool", "spiffe://dev.stepgrant.test/agent", "spiffe://partner.test/x"]
)
def test_a_receiver_may_be_the_giver_or_lie_above_or_below_it(receiver):
    """Cedar takes no entity twice."""
    handing = replace(HANDING, handing_on=HandingOn(AGENT, receiver, "orders.get"))
    assert allowed(handing, f'context.hand_off.to == Workload::"{receiver}"', HAND_OFF)
    assert allowed(handing, f'context.hand_off.from in Workload::"{AGENT}"', HAND_OFF)
    above = receiver.rpartition("/")[0]
    assert allowed(handing, f'context.hand_off.to in Workload::"{above}"', HAND_OFF)


def test_only_what_is_read_of_a_hand_off_stands_in_the_context():
    assert context_of(CATALOG, HANDING, Reads({"hand_off": frozenset({"to"})})) == {
        "hand_off": {"to": {"__entity": {"type": "Workload", "id": PAYMENTS}}}
    }
    assert context_of(CATALOG, HANDING, Reads({})) == {}
    assert not {"open", "assign"} & context_of(CATALOG, HANDING).keys()


@pytest.mark.parametrize("reads", [Reads({}), Reads({"hand_off": frozenset({"to"})})])
def test_inv_02_a_step_of_a_tool_that_is_gone_is_not_handed_on(reads):
    with pytest.raises(UnrepresentableError):
        context_of(CATALOG, replace(HANDING, handing_on=HandingOn(AGENT, PAYMENTS, "orders.gone")), reads)


def test_who_assigned_a_task_has_no_part_in_handing_it_on():
    """So that steps of an assigned task can be handed on also where the catalog's dispatchers are gone by now."""
    assert allowed(replace(HANDING, dispatcher=TICKETS), "true", HAND_OFF)


def test_a_catalog_without_dispatchers_knows_none():
    """So what was assigned under an earlier one opens nothing: its dispatcher does not fit the schema."""
    assert "Dispatcher" not in derive_schema(CATALOG)
    parties = parties_of(CATALOG, replace(QUESTION, step=StepFacts(), call=None, dispatcher=TICKETS))
    with pytest.raises(ValueError, match="deserialization"):
        cedarpy.Entities.from_json_str(json.dumps(parties.entities), SCHEMA)
