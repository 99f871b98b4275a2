import pytest

from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.policy.load import load_files, load_policy
from stepgrant_gateway.policy.sets import NO_PERMIT_NEXT, LoadedPolicySet
from tests.kit.policy import ORDER, SUPPORT, TRIAGE, asking, handing_on, with_cedar

MAIL = {"to": ["jo@x.org"], "subject": "s", "body": "b"}


@pytest.fixture(scope="module")
def policy() -> LoadedPolicySet:
    return load_policy(SUPPORT)


@pytest.mark.parametrize(
    ("tool", "arguments", "argument", "says"),
    [
        ("orders.refund", {"order_id": "ord_00000043", "amount": 1}, "order_id", "`order_id` is not what"),
        ("orders.refund", {"order_id": ORDER, "amount": 501}, "", "the budget `refunds` does not cover"),
        ("orders.refund", {"order_id": ORDER, "amount": 1}, "", "call orders.get first"),
        ("mail.send", {**MAIL, "to": ["eve@evil.org"]}, "to", "`to` is not what"),
        ("mail.send", {**MAIL, "attachments": [{"name": "a"}]}, "attachments", "`attachments` is not what"),
        ("mail.read", {"mailbox": "ceo"}, "mailbox", "`mailbox` is not what"),
    ],
)
def test_a_denial_names_what_does_not_hold_in_the_nearest_permit(
    policy: LoadedPolicySet, tool, arguments, argument: str, says: str
):
    refused = policy.evaluate(asking(policy, tool, arguments))
    assert isinstance(refused, Refused)
    assert refused.argument == argument
    assert says in refused.next
    assert len(refused.places) == 1


@pytest.mark.parametrize(
    "part", ['to in Workload::"spiffe://dev.stepgrant.test/agent/x"', 'tool == Tool::"orders.get"']
)
def test_a_hand_off_that_is_denied_says_what_to_do_instead(part: str):
    rule = '@id("h") @unbound("test") permit (principal is Task::Refund, action == Action::"task.hand_off", resource)'
    policy = load_files(with_cedar(f"{rule} when {{ context.hand_off.{part} }};"))
    refused = policy.evaluate(handing_on("spiffe://dev.stepgrant.test/agent/y"))
    assert isinstance(refused, Refused)
    assert "not handed on, or not to this workload" in refused.next
    assert [place.policy_id for place in refused.places] == ["h"]


def test_no_value_of_the_rule_or_of_the_call_is_said(policy: LoadedPolicySet):
    refused = policy.evaluate(asking(policy, "mail.read", {"mailbox": "ceo"}))
    assert isinstance(refused, Refused)
    assert "support" not in refused.reason + refused.next
    assert "ceo" not in refused.reason + refused.next


def test_what_is_said_of_a_tool_that_this_task_type_cannot_reach_is_nothing():
    rule = (
        '@id("t") permit (principal is Task::Triage, action == Action::"mail.read", resource) '
        'when { context.task.completed.contains(Tool::"orders.refund") };'
    )
    elsewhere = (
        '@id("r") @unbound("test") permit (principal is Task::Triage, action == Action::"orders.refund", resource) '
        'when { context.task.age > duration("9h") };'
    )
    policy = load_files(with_cedar(rule, elsewhere))
    refused = policy.evaluate(asking(policy, "mail.read", {"mailbox": "m"}, TRIAGE))
    assert isinstance(refused, Refused)
    assert "call orders.refund first" in refused.next
    refused = policy.evaluate(asking(policy, "orders.refund", {"order_id": ORDER, "amount": 1}, TRIAGE))
    assert isinstance(refused, Refused)
    assert refused.next == NO_PERMIT_NEXT


def test_a_guarded_condition_is_asked_together_with_its_guard():
    rule = (
        '@id("t") permit (principal is Task::Refund, action == Action::"orders.get", resource) '
        'when { principal has ticket && principal.ticket == "AB-1" && context.args.order_id == "a" };'
    )
    policy = load_files(with_cedar(rule))
    refused = policy.evaluate(asking(policy, "orders.get", {"order_id": ORDER}))
    assert isinstance(refused, Refused)
    assert refused.next == NO_PERMIT_NEXT


def test_a_permit_of_another_workload_explains_nothing():
    rule = (
        '@id("t") permit (principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/other", '
        'action == Action::"orders.get", resource) when { context.args.order_id == "secret" };'
    )
    policy = load_files(with_cedar(rule))
    refused = policy.evaluate(asking(policy, "orders.get", {"order_id": ORDER}))
    assert isinstance(refused, Refused)
    assert (refused.argument, refused.next, refused.places) == ("", NO_PERMIT_NEXT, ())
