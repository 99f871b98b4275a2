import pytest

from stepgrant_gateway.policy.expressions import Entity
from stepgrant_gateway.policy.index import Lineage, build_index, lineage_of
from stepgrant_gateway.policy.statements import read_statements

TASK = {"type": "Task::Refund", "id": "t"}
TARGET = {"type": "Target", "id": "pg://orders/1"}
ENTITIES = [
    {
        "uid": TASK,
        "attrs": {},
        "parents": [
            {"type": "TaskGroup", "id": "support"},
            {"type": "Workload", "id": "spiffe://a/agent"},
            {"type": "Workload", "id": "spiffe://a/agent/support"},
        ],
    },
    {"uid": TARGET, "attrs": {}, "parents": [{"type": "TargetGroup", "id": "orders"}]},
]
LINEAGE = lineage_of("orders.get", ("read", "orders.*"), TASK, TARGET, ENTITIES)


def matching(*policies: str) -> list[int]:
    statements, unread = read_statements({"a.cedar": "\n".join(policies).encode()})
    assert unread == ()
    index = build_index(statements)
    return sorted({number for leaf in index.matching(LINEAGE) for number in index.leaves[leaf]})


def test_a_request_is_in_all_that_its_entities_are_in():
    assert (
        Lineage(
            ("orders.get", "read", "orders.*"),
            "Task::Refund",
            frozenset(
                {
                    Entity("Task::Refund", "t"),
                    Entity("TaskGroup", "support"),
                    Entity("Workload", "spiffe://a/agent"),
                    Entity("Workload", "spiffe://a/agent/support"),
                }
            ),
            frozenset({Entity("Target", "pg://orders/1"), Entity("TargetGroup", "orders")}),
        )
        == LINEAGE
    )


@pytest.mark.parametrize(
    "scope",
    [
        "principal, action, resource",
        "principal is Task::Refund, action, resource",
        'principal is Task::Refund in Workload::"spiffe://a/agent", action, resource',
        'principal in TaskGroup::"support", action, resource',
        'principal in Workload::"spiffe://a/agent/support", action, resource',
        'principal == Task::Refund::"t", action, resource',
        'principal, action == Action::"orders.get", resource',
        'principal, action in Action::"read", resource',
        'principal, action in [Action::"x", Action::"orders.*"], resource',
        'principal, action, resource == Target::"pg://orders/1"',
        'principal, action, resource in TargetGroup::"orders"',
        "principal, action, resource is Target",
        'principal, action, resource is Target in TargetGroup::"orders"',
    ],
)
def test_a_policy_whose_scope_matches_is_looked_at(scope: str):
    assert matching(f"forbid ({scope});") == [0]


@pytest.mark.parametrize(
    "policy",
    [
        "forbid (principal is Task::Triage, action, resource);",
        'forbid (principal is Task::Refund in Workload::"spiffe://a/agent/other", action, resource);',
        'forbid (principal in TaskGroup::"sales", action, resource);',
        'forbid (principal in Workload::"spiffe://a/agent/support/7", action, resource);',
        'forbid (principal == Task::Refund::"u", action, resource);',
        'forbid (principal, action == Action::"orders.put", resource);',
        'forbid (principal, action in [Action::"write", Action::"mail.*"], resource);',
        'forbid (principal, action, resource == Target::"pg://orders/2");',
        'forbid (principal, action, resource in TargetGroup::"mail");',
        'forbid (principal, action, resource) when { principal in Workload::"spiffe://b" };',
        'forbid (principal, action, resource) when { principal in Workload::"spiffe://b" && context.x == 1 };',
    ],
)
def test_a_policy_that_cannot_match_is_not_looked_at(policy: str):
    assert matching(policy) == []


@pytest.mark.parametrize(
    "policy",
    [
        'forbid (principal, action, resource) when { context.x + 1 > 2 && principal in Workload::"spiffe://b" };',
        'forbid (principal, action, resource) when { context.x + 1 > 2 } when { principal in Workload::"spiffe://b" };',
        'forbid (principal, action, resource) unless { principal in Workload::"spiffe://b" };',
        'forbid (principal, action, resource) when { principal in Workload::"spiffe://b" || context.x == 1 };',
    ],
)
def test_a_policy_that_could_err_before_its_workload_is_asked_is_looked_at(policy: str):
    assert matching(policy) == [0]


def test_policies_of_one_scope_share_a_leaf():
    statements, _ = read_statements({"a.cedar": b"forbid (principal, action, resource);" * 50})
    index = build_index(statements)
    assert index.leaves == (tuple(range(50)),)
