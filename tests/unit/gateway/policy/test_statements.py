import pytest

from stepgrant_gateway.policy import statements
from stepgrant_gateway.policy.statements import read_statements

GOOD = '@id("good") permit (principal is Task::Refund, action == Action::"orders.get", resource);'


def read(*policies: str):
    return read_statements({"a.cedar": "\n".join(policies).encode(), "catalog.yaml": b"not looked at"})


def test_statements_are_numbered_over_all_files_in_order_of_name():
    found, findings = read_statements({"b.cedar": GOOD.encode(), "a.cedar": f"\n{GOOD}{GOOD}".encode()})
    assert findings == ()
    assert [(s.number, s.place.file, s.place.line) for s in found] == [
        (0, "a.cedar", 2),
        (1, "a.cedar", 2),
        (2, "b.cedar", 1),
    ]
    assert found[0].permits
    assert found[0].annotations == {"id": "good"}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ('@id("x") @id("x") permit (principal, action, resource);', "@id stands there twice"),
        ("permit (principal, action);", "Cedar cannot read this policy"),
        ("permit (principal, action, resource) when { context.a.lessThn(1) };", "`lessThn` is not a valid method"),
        ("permit (principal == ?principal, action, resource);", "A template authorizes nothing"),
        ("permit (principal, action, resource in ?resource);", "A template authorizes nothing"),
        (";", "Cedar cannot read this policy"),
    ],
)
def test_a_policy_that_cannot_be_read_is_named_by_line_and_hides_no_other(policy: str, says: str):
    found, findings = read(GOOD, policy, GOOD)
    assert len(found) == 2
    assert [(finding.file, finding.line) for finding in findings] == [("a.cedar", 2)]
    assert says in findings[0].message


def test_the_same_file_may_hold_a_template_and_still_number_the_rest_rightly():
    found, findings = read("permit (principal == ?principal, action, resource);", GOOD)
    assert [(s.number, s.place.line, s.place.policy_id) for s in found] == [(0, 2, "good")]
    assert len(findings) == 1


def test_bytes_that_are_no_text_are_refused_with_their_line():
    _, findings = read_statements({"a.cedar": b"// fine\n\xff"})
    assert str(findings[0]) == "a.cedar:2: This line is not UTF-8."


def test_policies_are_bounded_in_count_length_and_depth(monkeypatch: pytest.MonkeyPatch):
    deep = "permit (principal, action, resource) when { " + " && ".join(["context.a"] * 400) + " };"
    assert "nests deeper" in read(deep)[1][0].message
    monkeypatch.setattr(statements, "MAX_POLICY_CHARACTERS", 40)
    assert "longer than 40 characters" in read(GOOD)[1][0].message
    monkeypatch.setattr(statements, "MAX_POLICIES", 1)
    assert "past the 1 policies" in read(GOOD, GOOD)[1][0].message
