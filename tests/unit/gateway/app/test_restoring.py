"""What the operator says of a clock that had been ahead counts once, for exactly what the ledger shows."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from stepgrant.grant import LEEWAY
from stepgrant_gateway.app.restoring import forgive
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.history import History
from tests.kit.clock import START

LATEST = START + timedelta(days=1, microseconds=7)
BEHIND = History(latest=LATEST)


@pytest.mark.parametrize("history", [History(), History(latest=START), History(latest=START + LEEWAY)])
def test_a_clock_that_is_not_behind_needs_no_forgiving(history: History) -> None:
    assert forgive(history, LATEST, START) == []


def test_unasked_it_says_what_to_type_and_forgives_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert forgive(BEHIND, None, START) == []
    assert "--clock-was-ahead 2026-11-22T12:00:00.000007Z" in caplog.text


def test_the_very_time_is_forgiven_on_record() -> None:
    [event] = forgive(BEHIND, LATEST, START)
    assert (event.type.value, event.at) == ("clock.forgiven", START)
    assert event.data == {"ahead_until": "2026-11-22T12:00:00.000007Z"}
    after = History(latest=LATEST)
    after.follow(event)
    assert after.latest == START


@pytest.mark.parametrize("off", [timedelta(microseconds=1), timedelta(days=300)])
def test_any_other_time_is_refused(off: timedelta) -> None:
    with pytest.raises(ConfigError, match=r"12:00:00\.000007Z"):
        forgive(BEHIND, LATEST + off, START)
