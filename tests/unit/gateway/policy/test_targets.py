"""First match wins, `*` crosses `/`, and no match is no target."""

from stepgrant.grant import Tier
from stepgrant_gateway.policy.declarations import TargetRule
from stepgrant_gateway.policy.targets import can_match, match_target

RULES = (
    TargetRule("pg://orders/vip*", frozenset(["vip"]), Tier.SENSITIVE),
    TargetRule("pg://orders*", frozenset(["orders"]), None),
    TargetRule("mail://out", frozenset(), None),
)


def test_the_first_rule_that_matches_wins():
    assert match_target(RULES, "pg://orders/vip/1") is RULES[0]
    assert match_target(RULES, "pg://orders/1") is RULES[1]
    assert match_target(RULES, "pg://orders") is RULES[1]
    assert match_target(RULES, "mail://out") is RULES[2]


def test_nothing_matches_by_prefix_alone():
    assert match_target(RULES, "mail://outbox") is None
    assert match_target(RULES, "xpg://orders") is None


def test_a_template_that_can_never_match_is_known():
    assert can_match(RULES, "pg://orders/{id}")
    assert can_match(RULES, "pg://{table}")
    assert can_match(RULES, "mail://out")
    assert not can_match(RULES, "mail://in")
    assert not can_match(RULES, "imap://{mailbox}")
