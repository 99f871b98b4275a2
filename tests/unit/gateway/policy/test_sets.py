from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.errors import DenialCode
from stepgrant_gateway.core.decision import Permitted, PermitTerms, PolicyPlace, Refused
from stepgrant_gateway.core.ports import PolicySet
from stepgrant_gateway.policy.load import load_files, load_policy
from stepgrant_gateway.policy.sets import NO_PERMIT_NEXT, NO_PERMIT_REASON
from tests.kit.policy import ORDER, REFUND, SUPPORT, TRIAGE, asking, opening, with_cedar

GET = '@id("get") @ttl("9s") @uses("2") permit (principal is Task::Refund, action == Action::"orders.get", resource);'


@pytest.fixture(scope="module")
def policy() -> PolicySet:
    return load_policy(SUPPORT)


def test_a_satisfied_permit_brings_its_terms_and_its_place():
    policy = load_files(with_cedar("// a line", GET))
    verdict = policy.evaluate(asking(policy, "orders.get", {"order_id": ORDER}))
    assert verdict == Permitted((PermitTerms(PolicyPlace("get", "a.cedar", 2), timedelta(seconds=9), 2),))


def test_all_satisfied_permits_are_named_in_order():
    other = '@id("a") permit (principal in TaskGroup::"support", action in Action::"read", resource);'
    policy = load_files(with_cedar(GET, other))
    verdict = policy.evaluate(asking(policy, "orders.get", {"order_id": ORDER}))
    assert isinstance(verdict, Permitted)
    assert [permit.place.policy_id for permit in verdict.permits] == ["a", "get"]


def test_inv_02_without_a_permit_the_answer_is_no():
    elsewhere = (
        '@id("s") permit (principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/other", '
        'action == Action::"orders.search", resource);'
    )
    for policies in ((GET,), (GET, elsewhere)):
        policy = load_files(with_cedar(*policies))
        assert policy.evaluate(asking(policy, "orders.search", {"query": "x"})) == Refused(
            DenialCode.NO_PERMIT, NO_PERMIT_REASON, NO_PERMIT_NEXT
        )


def test_inv_02_a_forbid_wins_and_gives_its_reason():
    policy = load_files(with_cedar(GET, '@id("wall") @reason("Not now.") forbid (principal, action, resource);'))
    refused = policy.evaluate(asking(policy, "orders.get", {"order_id": ORDER}))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason) == (DenialCode.FORBIDDEN, "Not now.")
    assert refused.places == (PolicyPlace("wall", "a.cedar", 2),)


def test_inv_12_a_forbid_over_what_the_task_type_cannot_reach_says_nothing_of_itself():
    policy = load_files(with_cedar(GET, '@id("wall") @reason("Not now.") forbid (principal, action, resource);'))
    refused = policy.evaluate(asking(policy, "mail.read", {"mailbox": "m"}, TRIAGE))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason, refused.next) == (DenialCode.NO_PERMIT, NO_PERMIT_REASON, NO_PERMIT_NEXT)
    assert [place.policy_id for place in refused.places] == ["wall"]


def test_the_tools_of_a_task_type_are_those_that_some_permit_could_allow(policy: PolicySet):
    assert policy.tools_for("Refund") == {"orders.get", "orders.search", "orders.refund", "mail.read", "mail.send"}
    assert policy.tools_for("Triage") == {"orders.search", "mail.read", "mail.send"}
    assert policy.tools_for("Nothing") == frozenset()


def test_opening_a_task_is_a_decision_of_its_own(policy: PolicySet):
    assert isinstance(policy.evaluate(opening()), Permitted)
    assert isinstance(policy.evaluate(opening(TRIAGE)), Permitted)
    refused = policy.evaluate(opening(replace(REFUND, workload=TRIAGE.workload)))
    assert isinstance(refused, Refused)
    assert refused.code is DenialCode.NO_PERMIT


def test_a_workload_is_in_another_by_whole_segments_only(policy: PolicySet):
    beside = replace(REFUND, workload="spiffe://dev.stepgrant.test/agent/support-2")
    below = replace(REFUND, workload="spiffe://dev.stepgrant.test/agent/support/2")
    assert isinstance(policy.evaluate(opening(beside)), Refused)
    assert isinstance(policy.evaluate(opening(below)), Permitted)


def test_the_digest_and_the_catalog_are_of_the_same_directory(policy: PolicySet):
    assert policy.digest == load_policy(SUPPORT).digest
    assert set(policy.catalog.task_types) == {"Refund", "Triage"}
