import pytest

from stepgrant_gateway.policy.catalog import load_catalog
from stepgrant_gateway.policy.names import check_completed, check_names
from stepgrant_gateway.policy.scope import vocabulary_of
from stepgrant_gateway.policy.statements import read_statements
from tests.kit.policy import desk_files, support_files

CATALOG = load_catalog(support_files())
VOCABULARY = vocabulary_of(CATALOG)
COMPLETED = '@id("rule") forbid (principal is Task::Refund, action == Action::"orders.refund", resource) unless { %s };'
GET = '@id("get") %s permit (principal is Task::%s, action == Action::"orders.get", resource);'


def check(checks, *policies: str) -> list[str]:
    statements, unread = read_statements({"a.cedar": "\n".join(policies).encode()})
    assert unread == ()
    return [str(finding) for finding in checks(statements, CATALOG, VOCABULARY)]


def workload(text: str) -> list[str]:
    return check(check_names, f'@id("x") forbid (principal in Workload::"{text}", action, resource);')


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("agent/support", "spiffe://dev.stepgrant.test/agent/support"),
        ("/agent/support", "spiffe://dev.stepgrant.test/agent/support"),
        ("support", "spiffe://dev.stepgrant.test/agent/support"),
        ("dev.stepgrant.test/agent/support", "spiffe://dev.stepgrant.test/agent/support"),
        ("spiffe:/dev.stepgrant.test/agent/support", "spiffe://dev.stepgrant.test/agent/support"),
        ("spiffe://dev.stepgrant.tst/agent/support", "spiffe://dev.stepgrant.test/agent/support"),
        ("spiffe://dev.stepgrant.test/agnet/support", "spiffe://dev.stepgrant.test/agent/support"),
        ("spiffe://dev.stepgrant.test/agent/support/", "spiffe://dev.stepgrant.test/agent/support"),
    ],
)
def test_inv_01_a_bare_or_mistyped_workload_path_is_refused_with_what_was_meant(text: str, meant: str):
    found = workload(text)
    assert len(found) == 1
    assert found[0].endswith(f'Did you mean Workload::"{meant}"?')


@pytest.mark.parametrize("text", ["spiffe://dev.stepgrant.test/agent", "spiffe://dev.stepgrant.test/agent/a/b"])
def test_a_workload_at_or_below_a_root_of_the_catalog_is_fine(text: str):
    assert not workload(text)


@pytest.mark.parametrize("text", ["spiffe://dev.stepgrant.test", "spiffe://dev.stepgrant.test/agents"])
def test_a_workload_beside_or_above_the_roots_is_refused(text: str):
    assert "does not lie under `workloads`" in workload(text)[0]


def test_a_permit_with_finite_uses_makes_its_tool_witnessed_for_its_task_types():
    rule = COMPLETED % 'context.task.completed.contains(Tool::"orders.get")'
    assert "orders.get can never be in" in check(check_completed, rule)[0]
    assert check(check_completed, rule, GET % ("", "Refund"))
    assert check(check_completed, rule, GET % ('@uses("1")', "Triage"))
    assert not check(check_completed, rule, GET % ('@uses("1")', "Refund"))


@pytest.mark.parametrize("form", ["containsAll([%s])", "containsAny([%s])"])
def test_every_way_to_ask_for_completed_tools_is_seen(form: str):
    rule = COMPLETED % f"context.task.completed.{form}" % 'Tool::"orders.get"'
    assert check(check_completed, rule)


def test_a_tool_that_writes_is_redeemed_without_being_told():
    permit = '@id("p") permit (principal is Task::Refund, action == Action::"mail.send", resource);'
    assert not check(check_completed, COMPLETED % 'context.task.completed.contains(Tool::"mail.send")', permit)


def test_the_word_of_the_agent_needs_no_witness():
    assert not check(check_completed, COMPLETED % 'context.task.reported.contains(Tool::"orders.get")')


DESK = load_catalog(desk_files())


def opening(condition: str, catalog=DESK) -> list[str]:
    policy = f'@id("x") forbid (principal, action == Action::"task.open", resource) when {{ {condition} }};'
    statements, unread = read_statements({"a.cedar": policy.encode()})
    assert unread == ()
    return [str(finding) for finding in check_names(statements, catalog, vocabulary_of(catalog))]


def test_a_dispatcher_is_named_in_full_and_lies_under_the_dispatchers_of_the_catalog():
    by = 'context.open has dispatcher && context.open.dispatcher in Dispatcher::"%s"'
    assert not opening(by % "spiffe://dev.stepgrant.test/desk/tickets")
    for wrong in ("desk", "spiffe://dev.stepgrant.test/dsek"):
        assert opening(by % wrong)[0].endswith('Did you mean Dispatcher::"spiffe://dev.stepgrant.test/desk"?')
    [outside] = opening(by % "spiffe://dev.stepgrant.test/agent")
    assert "does not lie under `dispatchers`" in outside
    assert opening(by % "spiffe://dev.stepgrant.test/desk", CATALOG)


def test_who_vouches_is_one_of_those_who_can():
    assert not opening('context.open.vouched_by == "assignment" || context.open.vouched_by == "agent"')
    [wrong] = opening('context.open.vouched_by == "asignment"')
    assert wrong.endswith("Nobody vouches for a task as `asignment`. Did you mean assignment?")


def test_nothing_is_assigned_where_the_catalog_has_no_dispatchers():
    assign = '@id("x") permit (principal is Task::Refund, action == Action::"task.assign", resource);'
    assert "No tool or group of tools is called `task.assign`" in check(check_names, assign)[0]


def test_a_receiver_is_named_in_full_and_lies_under_the_workloads_of_the_catalog():
    hand_off = '@id("x") forbid (principal, action == Action::"task.hand_off", resource) when { %s in Workload::"%s" };'
    for who in ("context.hand_off.to", "context.hand_off.from"):
        assert not check(check_names, hand_off % (who, "spiffe://dev.stepgrant.test/agent/payments"))
        [bare] = check(check_names, hand_off % (who, "agent/payments"))
        assert "is not a SPIFFE ID" in bare
        [outside] = check(check_names, hand_off % (who, "spiffe://dev.stepgrant.test/agnet/payments"))
        assert "does not lie under `workloads`" in outside
