"""The pages of the listener: health as it was seen last, and not believed when that was too long ago."""

from __future__ import annotations

import json
from datetime import timedelta

from stepgrant_gateway.health import Condition
from stepgrant_gateway.web.pages import STALL, pages


def served(condition: Condition, now: timedelta = timedelta(0)):
    return pages(lambda: b"metrics", lambda: condition, lambda: now)


def test_a_ready_gateway_says_so():
    page = served(Condition(timedelta(0), {}))["/readyz"]()

    assert (page.status, json.loads(page.body)) == (200, {"ready": True, "troubles": {}})


def test_each_trouble_is_named_with_its_reason():
    page = served(Condition(timedelta(0), {"ledger": "disk full", "clock": "is behind"}))["/readyz"]()

    assert page.status == 503
    assert json.loads(page.body) == {"ready": False, "troubles": {"ledger": "disk full", "clock": "is behind"}}


def test_ds_08_a_loop_that_is_stuck_is_neither_ready_nor_alive():
    """DS-08: what it said last is not believed when it has not looked for longer than STALL."""
    good = Condition(timedelta(seconds=10), {})

    turning = served(good, timedelta(seconds=10) + STALL)
    stuck = served(good, timedelta(seconds=10) + STALL + timedelta(milliseconds=1))

    assert (turning["/readyz"]().status, turning["/healthz"]().status) == (200, 200)
    assert (stuck["/readyz"]().status, stuck["/healthz"]().status) == (503, 503)
    assert "has not turned" in json.loads(stuck["/readyz"]().body)["troubles"]["event_loop"]


def test_a_gateway_in_trouble_is_alive_all_the_same():
    assert served(Condition(timedelta(0), {"ledger": "disk full"}))["/healthz"]().status == 200


def test_metrics_are_prometheus_text():
    page = served(Condition(timedelta(0), {}))["/metrics"]()

    assert (page.status, page.body) == (200, b"metrics")
    assert page.content_type.startswith("text/plain; version=0.0.4")
