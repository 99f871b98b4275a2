"""Pins what the checks rely on in Cedar's own validator, so that an upgrade that changes it is noticed."""

import json

import cedarpy

from stepgrant_gateway.policy.catalog import load_catalog
from stepgrant_gateway.policy.schema import derive_schema
from stepgrant_gateway.policy.statements import read_statements
from stepgrant_gateway.policy.validation import check_constants, validate
from tests.kit.policy import support_files

SCHEMA = derive_schema(load_catalog(support_files()))
SCOPE = 'permit (principal is Task::Refund, action == Action::"orders.get", resource)'


def statements(*policies: str):
    found, unread = read_statements({"a.cedar": "\n".join(policies).encode()})
    assert unread == ()
    return found


def messages(*policies: str, reported: frozenset[tuple[str, int]] = frozenset()) -> list[str]:
    return [str(finding) for finding in validate(statements(*policies), SCHEMA, reported)]


def constants(*policies: str) -> list[int]:
    return [finding.line for finding in check_constants(statements(*policies), SCHEMA)]


def test_an_error_is_brought_to_the_line_of_its_own_policy():
    found = messages(f'@id("a") {SCOPE};', f'@id("b") {SCOPE} when {{ context.args.nothing == 1 }};')
    assert len(found) == 1
    assert found[0].startswith("a.cedar:2: [b] Attribute `args.nothing`")


def test_what_another_check_says_better_is_said_once():
    policy = '@id("a") permit (principal is Task::Refund, action == Action::"orders.gte", resource);'
    assert len(messages(policy)) == 2
    assert messages(policy, reported=frozenset({("a.cedar", 1)})) == []


def test_an_unreported_error_is_never_swallowed():
    assert messages(f'@id("a") {SCOPE} when {{ 1 == "a" && Label::"none" in Label::"none" }};')


def test_an_empty_set_validates():
    assert messages() == []
    assert constants() == []


def test_constants_are_found_among_others_and_by_their_own_line():
    fine = f'@id("a") {SCOPE} when {{ context.args.order_id == principal.order_id }};'
    dead = f'@id("b") {SCOPE} when {{ principal is Task::Triage }};'
    assert constants(fine, dead, fine, f"{SCOPE};", dead) == [2, 5]


def test_a_policy_that_is_dead_for_some_actions_only_is_not_constant():
    policy = 'forbid (principal, action in Action::"orders.*", resource) when { principal has order_id };'
    assert constants(f'@id("a") {policy}') == []


def test_cedar_still_does_not_look_into_a_dead_branch():
    dead = f'{SCOPE} when {{ if principal is Task::Triage then 1 < "one" else true }};'
    live = f'{SCOPE} when {{ if principal.order_id == "a" then 1 < "one" else true }};'
    assert cedarpy.validate_policies(dead, SCHEMA).validation_passed
    assert not cedarpy.validate_policies(live, SCHEMA).validation_passed


def test_cedar_still_lets_constant_conditions_and_open_scopes_through():
    for policy in (
        "permit (principal, action, resource);",
        f"{SCOPE} when {{ false }};",
        '@aproval("x") ' + SCOPE + ";",
    ):
        assert cedarpy.validate_policies(policy, SCHEMA).validation_passed


def test_cedar_still_numbers_the_policies_of_a_text_in_order():
    document = json.loads(cedarpy.policies_to_json_str("\n".join(f'@id("{n}") {SCOPE};' for n in range(20))))
    assert [document["staticPolicies"][f"policy{n}"]["annotations"]["id"] for n in range(20)] == [
        str(n) for n in range(20)
    ]
