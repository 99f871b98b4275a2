"""Which sessions a logout ends, and which tokens it keeps out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from stepgrant.subject import SubjectId
from stepgrant_gateway.core.logouts import MAX_LOGOUTS, REMEMBERED, Logout, Logouts, logout_data, logout_of
from stepgrant_gateway.core.principal import Subject
from tests.kit.clock import START
from tests.kit.subjects import JO, LOGIN, MAX, subject_of

AT = int(START.timestamp())
SECOND = timedelta(seconds=1)


def of(user: SubjectId = JO, iat: int | None = AT, **claims: Any) -> Subject:
    return subject_of(user, START + timedelta(hours=1), claims if iat is None else {"iat": iat, **claims})


@pytest.mark.parametrize(
    ("logout", "subject", "ended"),
    [
        (Logout(LOGIN, "u-17", None, START), of(), True),
        (Logout(LOGIN, "u-17", None, START), of(sid="s-1"), True),
        (Logout(LOGIN, "u-17", None, START), of(MAX), False),
        (Logout("https://other.acme.test", "u-17", None, START), of(), False),
        (Logout(LOGIN, None, "s-1", START), of(sid="s-1"), True),
        (Logout(LOGIN, None, "s-1", START), of(MAX, sid="s-1"), True),
        (Logout(LOGIN, None, "s-1", START), of(sid="s-2"), False),
        (Logout(LOGIN, None, "s-1", START), of(), False),
        (Logout(LOGIN, "u-17", "s-1", START), of(sid="s-1"), True),
        (Logout(LOGIN, "u-17", "s-1", START), of(sid="s-2"), False),
        (Logout(LOGIN, "u-17", "s-1", START), of(), True),
        (Logout(LOGIN, "u-17", "s-1", START), of(MAX, sid="s-1"), False),
        (Logout(LOGIN, "u-17", None, START), of(iat=AT - 1), True),
        (Logout(LOGIN, "u-17", None, START), of(iat=AT + 1), False),
        (Logout(LOGIN, "u-17", None, START), of(iat=None), True),
    ],
)
def test_a_logout_ends_the_sessions_that_it_names_and_that_began_before_it(
    logout: Logout, subject: Subject, ended: bool
) -> None:
    assert logout.ends(subject) is ended
    known = Logouts()
    known.note(logout)
    assert known.ended(subject) is ended
    assert logout_of(dict(logout_data(logout))) == logout


def test_a_logout_is_remembered_for_a_day_and_an_older_one_does_not_take_its_place() -> None:
    known = Logouts()
    known.note(Logout(LOGIN, "u-17", None, START))
    known.note(Logout(LOGIN, "u-17", None, START - SECOND))
    assert known.ended(of())
    known.tidy(START + REMEMBERED - SECOND)
    assert known.ended(of())
    known.tidy(START + REMEMBERED)
    assert not known.ended(of())


def test_what_is_remembered_has_a_bound() -> None:
    known = Logouts()
    for number in range(MAX_LOGOUTS + 1):
        known.note(Logout(LOGIN, f"u-{number}", None, START))
    assert len(known.known) == MAX_LOGOUTS
