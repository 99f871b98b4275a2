import json

import cedarpy
import pytest

from stepgrant_gateway.policy.catalog import load_catalog
from stepgrant_gateway.policy.scope import actions_of, scope_entities, task_types_of, vocabulary_of
from tests.kit.policy import support_files

VOCABULARY = vocabulary_of(load_catalog(support_files()))


def scope(text: str):
    return json.loads(cedarpy.policies_to_json_str(f"forbid ({text}, resource);"))["staticPolicies"]["policy0"]


@pytest.mark.parametrize(
    ("action", "applies_to"),
    [
        ('action == Action::"orders.get"', {"orders.get"}),
        ('action == Action::"read"', set()),
        ('action in Action::"read"', {"orders.get", "orders.search", "mail.read"}),
        ('action in Action::"mail.*"', {"mail.read", "mail.send"}),
        ('action in [Action::"egress", Action::"orders.refund"]', {"mail.send", "orders.refund"}),
        ('action in Action::"execute"', set()),
        ('action == Action::"task.open"', {"task.open"}),
        ('action == Action::"task.hand_off"', {"task.hand_off"}),
        ('action == Action::"task.assign"', set()),
        (
            "action",
            {"orders.get", "orders.search", "orders.refund", "mail.read", "mail.send", "task.open", "task.hand_off"},
        ),
    ],
)
def test_actions_are_resolved_through_their_groups(action: str, applies_to: set[str]):
    assert actions_of(scope(f"principal, {action}"), VOCABULARY) == applies_to


@pytest.mark.parametrize(
    ("principal", "types"),
    [
        ("principal", {"Refund", "Triage"}),
        ("principal is Task::Refund", {"Refund"}),
        ('principal is Task::Refund in Workload::"w"', {"Refund"}),
        ('principal is Task::Refund in TaskGroup::"support"', {"Refund"}),
        ('principal is Task::Refund in TaskGroup::"other"', set()),
        ('principal in TaskGroup::"support"', {"Refund", "Triage"}),
        ('principal in Workload::"w"', {"Refund", "Triage"}),
        ('principal == Task::Refund::"t"', {"Refund"}),
        ("principal is Workload", set()),
    ],
)
def test_task_types_are_resolved_through_their_groups(principal: str, types: set[str]):
    assert task_types_of(scope(f"{principal}, action"), VOCABULARY) == types


def test_the_entities_of_a_scope_are_found_in_each_of_its_forms():
    document = scope('principal is Task::Refund in Workload::"w", action in [Action::"a", Action::"b"]')
    assert [entity["id"] for entity in scope_entities(document["principal"])] == ["w"]
    assert [entity["id"] for entity in scope_entities(document["action"])] == ["a", "b"]
    assert scope_entities(document["resource"]) == ()
