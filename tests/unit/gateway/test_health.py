"""Health: what the checks say is what it says, and each change is said once."""

from __future__ import annotations

import logging
from datetime import timedelta

from stepgrant_gateway.health import Condition, Health
from tests.kit.clock import ManualClock


class Disk:
    """A check that a test switches on and off."""

    def __init__(self) -> None:
        self.trouble: str | Exception | None = None

    def __call__(self) -> str | None:
        if isinstance(self.trouble, Exception):
            raise self.trouble
        return self.trouble


def test_a_gateway_is_not_ready_before_it_has_looked():
    health = Health(ManualClock(), {})

    assert set(health.latest.troubles) == {"starting"}
    health.look()
    assert health.latest.troubles == {}


def test_a_cause_is_named_with_its_reason_while_it_lasts(caplog):
    disk, heard = Disk(), list[Condition]()
    health = Health(ManualClock(), {"ledger": disk, "clock": lambda: None}, heard.append)
    health.look()
    with caplog.at_level(logging.DEBUG):
        disk.trouble = "no space left"
        for _ in range(3):
            health.look()
        assert health.latest.troubles == {"ledger": "no space left"}
        disk.trouble = None
        health.look()

    assert health.latest.troubles == {}
    assert [set(condition.troubles) for condition in heard] == [set(), {"ledger"}, set()]
    assert [record.event for record in caplog.records] == ["ledger_failing", "ledger_recovered"]


def test_a_check_that_cannot_look_is_a_trouble_and_hides_no_other():
    disk = Disk()
    health = Health(ManualClock(), {"ledger": disk, "clock": lambda: "is behind"})
    disk.trouble = ValueError("s3cret")

    health.look()

    assert health.latest.troubles == {"ledger": "cannot be looked at: ValueError", "clock": "is behind"}


def test_draining_is_for_good(caplog):
    health = Health(ManualClock(), {})
    health.look()

    health.drain()
    health.look()

    assert set(health.latest.troubles) == {"draining"}


def test_the_time_of_the_last_look_is_said():
    clock = ManualClock()
    health = Health(clock, {})
    clock.advance(timedelta(seconds=7))

    health.look()

    assert health.latest.at == timedelta(seconds=7)
    assert health.checks == {"starting", "draining"}
