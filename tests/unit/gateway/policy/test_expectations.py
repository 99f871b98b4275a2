from datetime import timedelta

import pytest

from stepgrant.errors import DenialCode
from stepgrant.grant import Tier
from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.expectations import Came, Expected, differences, read_expected
from stepgrant_gateway.policy.yaml_reader import read_yaml

GRANTED = Came(True, None, "", Tier.SENSITIVE, timedelta(seconds=20), 1, frozenset({"a", "b"}))
DENIED = Came(granted=False, code=DenialCode.NO_PERMIT, argument="to", policies=frozenset({"a"}))


def read(text: str) -> Expected:
    return read_expected(read_yaml("tests/a.yaml", text.encode()))


def test_what_is_not_named_is_not_looked_at():
    assert differences(read("{decision: granted}"), GRANTED) == ()
    assert differences(read("{decision: denied}"), DENIED) == ()


def test_every_part_that_is_named_is_compared():
    whole = read("{decision: granted, tier: sensitive, ttl: 20s, uses: 1, policies: [b, a]}")
    assert differences(whole, GRANTED) == ()
    assert differences(read("{decision: denied, code: no_permit, argument: to, policies: [a]}"), DENIED) == ()


@pytest.mark.parametrize(
    ("expect", "came", "says"),
    [
        ("{decision: granted}", DENIED, "decision: expected granted, came denied (no_permit) over `to` by [a]"),
        ("{decision: denied, code: locked}", GRANTED, "decision: expected denied (locked), came granted by [a, b]"),
        ("{decision: denied, code: locked}", DENIED, "code: expected locked, came no_permit"),
        ("{decision: denied, argument: cc}", DENIED, "argument: expected cc, came to"),
        ("{decision: granted, tier: routine}", GRANTED, "tier: expected routine, came sensitive"),
        ("{decision: granted, ttl: 1m}", GRANTED, "ttl: expected 60s, came 20s"),
        ("{decision: granted, uses: unlimited}", GRANTED, "uses: expected unlimited, came 1"),
        ("{decision: granted, uses: 2}", GRANTED, "uses: expected 2, came 1"),
        ("{decision: granted, policies: [a]}", GRANTED, "policies: expected [a], came [a, b]"),
        ("{decision: granted, policies: []}", GRANTED, "policies: expected [], came [a, b]"),
    ],
)
def test_a_difference_says_what_was_expected_and_what_came(expect: str, came: Came, says: str):
    assert differences(read(expect), came) == (says,)


@pytest.mark.parametrize(
    ("expect", "says", "nearest"),
    [
        ("{}", "lacks `decision`", ""),
        ("{decision: grant}", "none of granted, denied, pending", "granted"),
        ("{decision: granted, tll: 1s}", "no key `tll`", "ttl"),
        ("{decision: pending, approvals: [a]}", "Approvals are not enforced by this version", ""),
        ("{decision: granted, approvals: [a]}", "Approvals are not enforced by this version", ""),
        ("{decision: granted, code: no_permit}", "`code` says nothing about a decision that is granted", ""),
        ("{decision: denied, ttl: 1s}", "`ttl` says nothing about a decision that is denied", ""),
        ("{decision: denied, code: no_permits}", "`code` is none of", "no_permit"),
        ("{decision: granted, uses: 0}", "`uses` is not a whole number", ""),
        ("{decision: granted, uses: 1.5}", "`uses` is not a whole number", ""),
        ("{decision: granted, ttl: 1}", "`ttl` is a number", ""),
        ("{decision: granted, tier: privileged}", "`tier` is none of", ""),
    ],
)
def test_an_expectation_that_cannot_be_is_refused(expect: str, says: str, nearest: str):
    with pytest.raises(PolicyRefusedError) as caught:
        read(expect)
    assert says in caught.value.findings[0].message
    assert caught.value.findings[0].nearest == nearest
