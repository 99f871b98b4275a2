"""An operator sees all that is wrong at once."""

import pytest

from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.findings import MAX_FINDINGS, Findings, nearest, refused


def test_a_part_that_fails_does_not_hide_what_the_next_has_to_say():
    findings = Findings()
    for line in (7, 3, 3):
        with findings.part():
            raise refused("a.yaml", line, "wrong")
    with pytest.raises(PolicyRefusedError) as caught:
        findings.refuse_if_any()
    assert [finding.line for finding in caught.value.findings] == [3, 7]


def test_nothing_found_is_nothing_refused():
    findings = Findings()
    with findings.part():
        pass
    findings.refuse_if_any()


def test_other_errors_pass_through():
    with pytest.raises(KeyError), Findings().part():
        raise KeyError


def test_findings_are_bounded():
    findings = Findings()
    for line in range(MAX_FINDINGS + 10):
        with findings.part():
            raise refused("a.yaml", line, "wrong")
    with pytest.raises(PolicyRefusedError) as caught:
        findings.refuse_if_any()
    assert len(caught.value.findings) == MAX_FINDINGS


def test_the_nearest_name_is_one_that_looks_alike():
    assert nearest("refnd", ["refund", "search"]) == "refund"
    assert nearest("xyzzy", ["refund", "search"]) == ""
