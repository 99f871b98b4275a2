"""INV-02: default deny, a forbid wins, any error denies."""

from dataclasses import replace
from itertools import product

import cedarpy
import pytest

from stepgrant.errors import DenialCode
from stepgrant_gateway.core.decision import Permitted, PolicyPlace, Refused
from stepgrant_gateway.policy import evaluation
from stepgrant_gateway.policy.entities import UnrepresentableError, parties_of
from stepgrant_gateway.policy.load import load_files
from tests.kit.policy import AGENT, CUSTOMER, ORDER, REFUND, asking, handing_on, opening, with_cedar

GET = '@id("get") permit (principal is Task::Refund, action == Action::"orders.get", resource);'
ERRING = '@id("errs") forbid (principal, action, resource) when { context.task.denials + 9223372036854775807 < 0 };'

OPEN = '@id("open") permit (principal is Task::Refund, action == Action::"task.open", resource);'
HAND_OFF = '@id("on") permit (principal is Task::Refund in Workload::"%s", action == Action::"task.hand_off", resource)'


def verdict(*policies: str, **given):
    policy = load_files(with_cedar(*policies))
    return policy.evaluate(asking(policy, "orders.get", {"order_id": ORDER}, **given))


def test_inv_02_a_forbid_that_errs_denies_and_the_operator_reads_where_it_stands():
    assert isinstance(verdict(GET, "// a line\n" + ERRING, denials=0), Permitted)
    refused = verdict(GET, "// a line\n" + ERRING, denials=3)
    assert isinstance(refused, Refused)
    assert refused.code is DenialCode.POLICY_ERROR
    assert refused.places == (PolicyPlace("errs", "a.cedar", 3),)
    assert len(refused.errors) == 1
    assert refused.errors[0].startswith("a.cedar:3: [errs] integer overflow")
    assert "errs" not in refused.reason + refused.next


def test_inv_02_a_permit_that_errs_denies_although_another_holds():
    erring = GET.replace('"get"', '"errs"').replace(";", " when { context.task.denials + 9223372036854775807 > 0 };")
    refused = verdict(GET, erring, denials=3)
    assert isinstance(refused, Refused)
    assert refused.code is DenialCode.POLICY_ERROR


def test_an_error_says_nothing_of_the_values_it_stumbled_over():
    refused = verdict(GET, ERRING, denials=77777)
    assert isinstance(refused, Refused)
    assert "77777" not in str(refused)


def test_inv_02_an_ill_typed_request_denies():
    policy = load_files(with_cedar(GET))
    question = asking(policy, "orders.get", {"order_id": ORDER})
    assert question.call is not None
    ill_typed = replace(question, call=replace(question.call, view={"args": {"order_id": 3}}))
    reads = GET.replace(";", ' unless { context.args.order_id == "ord_00000043" };')
    refused = load_files(with_cedar(reads)).evaluate(ill_typed)
    assert isinstance(refused, Refused)
    assert refused.code is DenialCode.POLICY_ERROR
    assert refused.errors == ("The request does not fit the schema of this policy set.",)


def test_inv_02_where_nothing_is_read_what_the_set_does_not_know_is_denied_all_the_same():
    policy = load_files(with_cedar(GET))
    question = asking(policy, "orders.get", {"order_id": ORDER})
    assert question.call is not None
    assert isinstance(policy.evaluate(question), Permitted)
    tool = replace(question.call.tool, name="orders.forget")
    for unknown in (
        replace(question, call=replace(question.call, tool=tool)),
        replace(question, call=replace(question.call, target_groups=frozenset({"nobody-named-it"}))),
        replace(question, task=replace(question.task, task_type="Remove")),
        replace(question, budget={}),
    ):
        assert isinstance(policy.evaluate(unknown), Refused), unknown
        assert isinstance(policy.evaluate(question), Permitted)


def test_inv_02_ill_typed_parties_are_refused():
    policy = load_files(with_cedar(GET))
    parties = parties_of(policy.catalog, asking(policy, "orders.get", {"order_id": ORDER}))
    principal = {**parties.entities[0], "attrs": {"order_id": 3, "customer": CUSTOMER}}
    with pytest.raises(UnrepresentableError, match="does not fit the schema"):
        policy._evaluator.entities(replace(parties, entities=[principal, *parties.entities[1:]]))


def test_what_is_remembered_of_one_task_decides_nothing_for_another():
    policy = load_files(with_cedar(GET.replace(";", " when { context.args.order_id == principal.order_id };")))
    question = asking(policy, "orders.get", {"order_id": ORDER})
    another = replace(question.task, parameters={"order_id": "ord_00000043", "customer": CUSTOMER})
    answers = [policy.evaluate(asked) for asked in (question, replace(question, task=another), question)]
    assert [type(answer) for answer in answers] == [Permitted, Refused, Permitted]


def test_what_is_remembered_of_one_hand_off_decides_nothing_for_another():
    """Each question is asked behind every other one, and answered as by a set that remembers nothing."""
    to = 'context.hand_off.to in Workload::"spiffe://dev.stepgrant.test/agent/payments"'
    given = f'context.hand_off.from == Workload::"{AGENT}" && context.hand_off.tool == Tool::"orders.refund"'
    hand_off = f"{HAND_OFF % AGENT} when {{ {to} && {given} }};"
    policy = load_files(with_cedar(hand_off, OPEN))
    payments = "spiffe://dev.stepgrant.test/agent/payments"
    member = replace(REFUND, workload=payments)
    questions = [
        opening(),
        handing_on(payments),
        handing_on(f"{payments}/2"),
        handing_on("spiffe://dev.stepgrant.test/agent/mail"),
        handing_on(payments, tool="orders.get"),
        handing_on(payments, giver=payments),
        handing_on(payments, member),
        opening(member),
    ]
    answers = [policy.evaluate_without_index(question) for question in questions]
    assert [isinstance(answer, Permitted) for answer in answers] == [True, True, True, False, False, False, False, True]
    for first, second in product(range(len(questions)), repeat=2):
        policy._grounds.clear()
        assert policy.evaluate(questions[first]) == answers[first]
        assert policy.evaluate(questions[second]) == answers[second]


def test_inv_02_no_decision_denies_even_without_an_error(monkeypatch: pytest.MonkeyPatch):
    undecided = cedarpy.AuthzResult({"decision": "NoDecision", "diagnostics": {"reason": ["0"], "errors": []}})
    monkeypatch.setattr(evaluation.cedarpy, "is_authorized", lambda *_, **__: undecided)
    refused = verdict(GET)
    assert isinstance(refused, Refused)
    assert refused.code is DenialCode.POLICY_ERROR


def test_inv_02_a_request_that_cannot_even_be_asked_denies(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> object:
        raise ValueError("no JSON")

    monkeypatch.setattr(evaluation.cedarpy, "is_authorized", broken)
    refused = verdict(GET)
    assert isinstance(refused, Refused)
    assert refused.code is DenialCode.POLICY_ERROR


def test_inv_02_a_request_that_cedar_cannot_hold_denies():
    policy = load_files(with_cedar(GET))
    question = replace(asking(policy, "orders.get", {"order_id": ORDER}), budget={})
    refused = policy.evaluate(question)
    assert isinstance(refused, Refused)
    assert refused.code is DenialCode.POLICY_ERROR


def test_cedar_still_skips_an_erring_forbid_and_says_allow():
    text = "permit (principal, action, resource); forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };"
    anyone = {"type": "A", "id": "a"}
    request = {"principal": anyone, "action": {"type": "Action", "id": "x"}, "resource": anyone, "context": {}}
    answer = cedarpy.is_authorized(request, text, [])
    assert answer.decision is cedarpy.Decision.Allow
    assert answer.diagnostics.errors


def test_a_handle_is_parsed_once_for_the_same_leaves(monkeypatch: pytest.MonkeyPatch):
    policy = load_files(with_cedar(GET))
    question = asking(policy, "orders.get", {"order_id": ORDER})
    policy.evaluate(question)
    monkeypatch.setattr(evaluation, "_handle_of", None)
    assert isinstance(policy.evaluate(question), Permitted)
