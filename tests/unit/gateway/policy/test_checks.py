import pytest

from stepgrant_gateway.policy.annotations import read_annotations
from stepgrant_gateway.policy.catalog import load_catalog
from stepgrant_gateway.policy.checks import check_needless_unbound, check_permits
from stepgrant_gateway.policy.scope import vocabulary_of
from stepgrant_gateway.policy.statements import read_statements
from tests.kit.policy import desk_files, support_files

CATALOG = load_catalog(support_files())
VOCABULARY = vocabulary_of(CATALOG)


def check(policy: str, checks=check_permits) -> list[str]:
    statements, unread = read_statements({"a.cedar": policy.encode()})
    assert unread == ()
    annotations, _ = read_annotations(statements)
    return [finding.message for finding in checks(statements, annotations, CATALOG, VOCABULARY)]


def test_inv_01_a_permit_for_whoever_it_may_be_is_refused():
    assert "names none" in check('@id("x") permit (principal, action == Action::"orders.get", resource);')[0]


def test_inv_01_a_permit_for_whatever_action_is_refused():
    wrong = check('@id("x") @unbound("why") permit (principal is Task::Refund, action, resource);')
    assert "action of a permit must be named" in wrong[0]


def test_inv_01_every_sink_of_every_tool_of_a_group_has_to_be_named():
    wrong = check('@id("x") permit (principal is Task::Refund, action in Action::"write", resource);')
    assert [message.split("`")[1] for message in wrong] == ["to", "amount", "order_id"]


def test_inv_01_asking_whether_a_sink_is_there_binds_nothing():
    scope = '@id("x") permit (principal is Task::Refund, action == Action::"mail.send", resource)'
    assert check(scope + " when { context.args has to };")
    assert check(scope + " when { context.count.to == 1 };")
    assert not check(scope + ' when { ["x.org"].containsAll(context.parts.to.domain) };')
    assert not check(scope + ' unless { context.args.to.contains("eve@evil.org") };')


def test_a_sink_may_be_left_open_with_a_reason_and_a_needless_reason_is_noticed():
    scope = '@id("x") @unbound("anybody may hear") permit (principal is Task::Refund, action == Action::"mail.send", resource)'
    assert not check(scope + ";")
    assert not check(scope + ";", check_needless_unbound)
    assert check(scope + " when { context.args.to == [] };", check_needless_unbound)


def test_a_forbid_may_be_as_wide_as_it_likes():
    assert not check('@id("x") forbid (principal, action, resource);')


ROOT = "spiffe://dev.stepgrant.test/agent"
HAND_OFF = '@id("x") %s permit (principal %s, action == Action::"task.hand_off", resource) %s;'
IN_ROOT = f'is Task::Refund in Workload::"{ROOT}"'
TO_ROOT = f'context.hand_off.to in Workload::"{ROOT}"'


@pytest.mark.parametrize(
    "scope", ["is Task::Refund", 'in TaskGroup::"support"', 'is Task::Refund in TaskGroup::"support"']
)
def test_inv_01_a_permit_to_hand_on_says_to_whom_or_why_to_anybody(scope: str):
    for nobody in (
        "",
        'when { context.hand_off.tool == Tool::"orders.get" }',
        f'when {{ context.hand_off.from in Workload::"{ROOT}" }}',
        f'when {{ principal in Workload::"{ROOT}" || context.task.denials == 0 }}',
        f'unless {{ principal in Workload::"{ROOT}" }}',
        "when { context has hand_off && context.hand_off has to }",
    ):
        assert "any could receive" in check(HAND_OFF % ("", scope, nobody))[0]
    assert not check(HAND_OFF % ("", scope, f"when {{ {TO_ROOT} }}"))
    assert not check(HAND_OFF % ("", scope, f'when {{ context.task.denials == 0 && principal in Workload::"{ROOT}" }}'))
    anybody = '@unbound("whoever the step needs")'
    assert not check(HAND_OFF % (anybody, scope, ""))
    assert not check(HAND_OFF % (anybody, scope, ""), check_needless_unbound)
    assert check(HAND_OFF % (anybody, scope, f"when {{ {TO_ROOT} }}"), check_needless_unbound)


def test_a_permit_for_a_workload_lets_no_other_one_receive():
    assert not check(HAND_OFF % ("", IN_ROOT, ""))
    assert check(HAND_OFF % ('@unbound("why")', IN_ROOT, ""), check_needless_unbound)


def test_a_forbid_to_hand_on_needs_no_receiver():
    assert not check('@id("x") forbid (principal, action == Action::"task.hand_off", resource);')


DESK = load_catalog(desk_files())
ASSIGN = '@id("x") %s permit (principal is Task::Refund, action == Action::"task.assign", resource) %s;'


def check_assigning(note: str, condition: str, checks=check_permits) -> list[str]:
    statements, unread = read_statements({"a.cedar": (ASSIGN % (note, condition)).encode()})
    assert unread == ()
    annotations, _ = read_annotations(statements)
    return [finding.message for finding in checks(statements, annotations, DESK, vocabulary_of(DESK))]


def test_inv_01_a_permit_to_assign_says_to_whom_or_why_to_anybody():
    assert "whoever has an SVID could assign" in check_assigning("", "")[0]
    assert check_assigning("", 'when { principal.order_id == "ord_00000042" }')
    by_desk = 'when { context.assign.by in Dispatcher::"spiffe://dev.stepgrant.test/desk" }'
    assert not check_assigning("", by_desk)
    assert not check_assigning('@unbound("all of us may")', "")
    assert not check_assigning('@unbound("all of us may")', "", check_needless_unbound)
    assert check_assigning('@unbound("all of us may")', by_desk, check_needless_unbound)
