"""The match of a lock, by its subject: the other fields are held by the locks' own tests."""

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant.selector import Selector, matches

JO = "https://login.acme.test#u-17"


@pytest.mark.parametrize(
    ("selector", "subject", "expected"),
    [
        (Selector(subject=JO), JO, True),
        (Selector(subject=JO), None, False),
        (Selector(subject=JO), "https://login.acme.test#u-170", False),
        (Selector(subject=JO), "https://login.acme.test.evil.org#u-17", False),
        (Selector(subject=JO, tool="mail.*"), JO, False),
        (Selector(subject=JO, workload="spiffe://acme.org/agent"), JO, True),
        (Selector(subject=JO, workload="spiffe://acme.org/other"), JO, False),
        (Selector(workload="spiffe://acme.org/agent"), JO, True),
    ],
)
def test_a_lock_on_a_subject_matches_that_subject_exactly(
    selector: Selector, subject: str | None, expected: bool
) -> None:
    asked = {
        "workload": "spiffe://acme.org/agent/a",
        "task_type": "Refund",
        "tool": "orders.get",
        "target": "pg://orders",
    }
    assert matches(selector, **asked, subject=subject) is expected


def test_a_subject_that_can_be_none_is_refused_rather_than_never_matched() -> None:
    for text in ("", "u-17", "https://login.acme.test"):
        with pytest.raises(InvalidInputError):
            Selector(subject=text)
