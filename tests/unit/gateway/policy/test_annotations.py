from datetime import timedelta

import pytest

from stepgrant_gateway.policy.annotations import Annotations, read_annotations
from stepgrant_gateway.policy.statements import read_statements

PERMIT = 'permit (principal is Task::Refund, action == Action::"orders.get", resource);'
FORBID = "forbid (principal, action, resource);"


def read(*policies: str):
    statements, unread = read_statements({"a.cedar": "\n".join(policies).encode()})
    assert unread == ()
    return read_annotations(statements)


def test_the_values_of_a_permit_are_read():
    found, findings = read('@id("a") @ttl("90s") @uses("3") @unbound("the note is free text")\n' + PERMIT)
    assert findings == ()
    assert found[0] == Annotations(timedelta(seconds=90), 3, "", "the note is free text")


def test_the_reason_of_a_forbid_is_read():
    found, findings = read('@id("a") @reason("Not on Sundays.") ' + FORBID)
    assert findings == ()
    assert found[0].reason == "Not on Sundays."


@pytest.mark.parametrize(
    ("annotations", "policy", "says", "nearest"),
    [
        ("", PERMIT, "has no @id", ""),
        ("@id", PERMIT, "@id is not 1 to 128", ""),
        ('@id("")', PERMIT, "@id is not 1 to 128", ""),
        ('@id("a b")', PERMIT, "@id is not 1 to 128", ""),
        ('@id("x\\n")', PERMIT, "@id is not 1 to 128", ""),
        ('@id("x") @aproval("y")', FORBID, "@aproval is not an annotation", "@approval"),
        ('@id("x") @tll("1s")', PERMIT, "@tll is not an annotation", "@ttl"),
        ('@id("x") @TTL("1s")', PERMIT, "@TTL is not an annotation", ""),
        ('@id("x") @qqqqqqq', PERMIT, "@qqqqqqq is not an annotation", ""),
        ('@id("x") @approval("finance:1")', FORBID, "@approval is not enforced by this version", ""),
        ('@id("x") @tier("sensitive")', FORBID, "@tier is not enforced by this version", ""),
        ('@id("x") @shadow', PERMIT, "@shadow is not enforced by this version", ""),
        ('@id("x") @ttl("1s")', FORBID, "@ttl belongs on a permit; this is a forbid", ""),
        ('@id("x") @uses("1")', FORBID, "@uses belongs on a permit; this is a forbid", ""),
        ('@id("x") @unbound("why")', FORBID, "@unbound belongs on a permit; this is a forbid", ""),
        ('@id("x") @reason("why")', PERMIT, "@reason belongs on a forbid; this is a permit", ""),
        ('@id("x") @ttl', PERMIT, "@ttl is not a whole number above 0 and a unit", ""),
        ('@id("x") @ttl("0s")', PERMIT, "@ttl is not a whole number above 0 and a unit", ""),
        ('@id("x") @ttl("30")', PERMIT, "@ttl is not a whole number above 0 and a unit", ""),
        ('@id("x") @ttl("1.5m")', PERMIT, "@ttl is not a whole number above 0 and a unit", ""),
        ('@id("x") @uses("0")', PERMIT, "@uses is not a whole number from 1 to 1000", ""),
        ('@id("x") @uses("1001")', PERMIT, "@uses is not a whole number from 1 to 1000", ""),
        ('@id("x") @uses("+1")', PERMIT, "@uses is not a whole number from 1 to 1000", ""),
        ('@id("x") @uses("\u0661")', PERMIT, "@uses is not a whole number from 1 to 1000", ""),
        ('@id("x") @unbound("")', PERMIT, "@unbound is not a text", ""),
        ('@id("x") @unbound(" ")', PERMIT, "@unbound is not a text", ""),
        ('@id("x") @reason', FORBID, "@reason is not a text", ""),
        ('@id("x") @reason("a\\nb")', FORBID, "@reason is not a text", ""),
    ],
)
def test_inv_01_what_is_no_annotation_or_no_value_of_one_is_refused(
    annotations: str, policy: str, says: str, nearest: str
):
    _, findings = read(f"// a comment\n{annotations} {policy}")
    assert len(findings) == 1
    assert (findings[0].file, findings[0].line) == ("a.cedar", 2)
    assert says in findings[0].message
    assert findings[0].nearest == nearest


def test_an_id_is_taken_once_in_the_whole_directory():
    statements, _ = read_statements(
        {"a.cedar": f'@id("x") {PERMIT}'.encode(), "b.cedar": f'\n@id("x") {FORBID}'.encode()}
    )
    _, findings = read_annotations(statements)
    assert [str(f) for f in findings] == ['b.cedar:2: [x] @id("x") is taken by the policy at a.cedar:1.']
