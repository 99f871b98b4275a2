from datetime import timedelta

import pytest

from stepgrant.errors import DenialCode
from stepgrant_gateway.core.decision import NO_PERMIT, Permitted, PermitTerms, PolicyPlace, Refused, all_of

A = PermitTerms(PolicyPlace("a", "a.cedar", 1), timedelta(seconds=9), 2)
B = PermitTerms(PolicyPlace("b", "a.cedar", 2))
WALL = Refused(DenialCode.FORBIDDEN, "Not now.", "")
BROKEN = Refused(DenialCode.POLICY_ERROR, "It could not be evaluated.", "")


def test_what_all_permit_is_permitted_with_the_permits_of_all_each_once():
    assert all_of([Permitted((A,))]) == Permitted((A,))
    assert all_of([Permitted((B, A)), Permitted((A,)), Permitted((A, B))]) == Permitted((B, A))


@pytest.mark.parametrize(
    ("verdicts", "first"),
    [
        ([WALL], WALL),
        ([Permitted((A,)), WALL], WALL),
        ([WALL, Permitted((A,))], WALL),
        ([Permitted((A,)), BROKEN, WALL, Permitted((B,))], BROKEN),
    ],
)
def test_inv_02_who_is_permitted_does_not_make_up_for_who_is_not(verdicts, first):
    assert all_of(verdicts) is first


def test_inv_02_nobody_asked_is_nobody_permitted():
    assert all_of([]) is NO_PERMIT


def test_nobody_is_asked_behind_a_refusal():
    assert all_of(iter([WALL, None])) is WALL
