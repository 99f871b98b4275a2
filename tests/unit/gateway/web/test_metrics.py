"""Metrics: what an observer hears is what Prometheus reads, under names by its conventions and bounded labels."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stepgrant_gateway.core.observations import Boundary, Count, Course, Timing
from stepgrant_gateway.web.metrics import COUNTERS, TIMINGS, Level, Metrics


def samples(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


@pytest.fixture
def metrics():
    return Metrics()


def test_decisions_are_counted_by_boundary_outcome_and_code_and_timed(metrics):
    granted = Course(Boundary.DECLARE, timedelta(seconds=1), decided=timedelta(seconds=1.001))
    metrics.decided(granted, "", timedelta(seconds=1.004))
    metrics.decided(Course(Boundary.OPEN, timedelta(seconds=1)), "no_permit", timedelta(seconds=2))

    found = samples(metrics)
    assert found["stepgrant_decisions_total"] == {("declare", "", "granted"): 1, ("open", "no_permit", "denied"): 1}
    assert found["stepgrant_decision_seconds_sum"] == {("declare",): pytest.approx(0.001), ("open",): 0}
    assert found["stepgrant_answer_seconds_sum"] == {
        ("declare", "granted"): pytest.approx(0.004),
        ("open", "denied"): pytest.approx(1),
    }


def test_whatever_can_be_counted_or_timed_is(metrics):
    for what in Count:
        metrics.count(what, "some", by=2)
    for what in Timing:
        metrics.time(what, timedelta(milliseconds=3))

    found = samples(metrics)
    assert {sum(found[f"{name}_total"].values()) for name, _, _ in COUNTERS.values()} == {2}
    assert {found[f"{name}_count"][()] for name, _ in TIMINGS.values()} == {1}
    assert (COUNTERS.keys(), TIMINGS.keys()) == (set(Count), set(Timing))


def test_levels_the_active_policy_and_failing_checks_are_what_was_shown_last(metrics):
    metrics.show({Level.LIVE_GRANTS: 1}, "sha256:old", {"ledger": True})
    metrics.show({Level.LIVE_GRANTS: 3}, "sha256:new", {"ledger": False, "clock": True})

    found = samples(metrics)
    assert found["stepgrant_live_grants"] == {(): 3}
    assert found["stepgrant_policy_info"] == {("sha256:new",): 1}
    assert found["stepgrant_check_failing"] == {("ledger",): 0, ("clock",): 1}


def test_no_two_gateways_share_a_registry(metrics):
    other = Metrics()

    metrics.count(Count.CALLER_DENIED)

    assert samples(other)["stepgrant_callers_denied_total"] == {(): 0}


def test_names_and_labels_are_what_prometheus_expects(metrics):
    metrics.show(dict.fromkeys(Level, 1.0), "sha256:x", {"ledger": False})
    labels = set()
    for family in text_string_to_metric_families(metrics.page().decode()):
        if family.name.startswith("stepgrant_"):
            assert re.fullmatch(r"stepgrant_[a-z]+(_[a-z]+)*", family.name)
            assert family.documentation
            labels |= {label for sample in family.samples for label in sample.labels}

    assert labels <= {"boundary", "outcome", "code", "reason", "kind", "errand", "result", "check", "digest", "le"}
