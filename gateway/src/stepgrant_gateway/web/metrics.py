"""Prometheus metrics of one gateway, in a registry of its own.

Labels are bounded by this code base (boundaries, codes, errands): no id, and no workload, tool or task type either, since their
number is the installation's and a histogram of each would cost more than it tells; the ledger answers questions by workload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from stepgrant_gateway.core.observations import Boundary, Count, Course, Timing

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from a decision without a disk to a ledger at its bound."""

COUNTERS: Final[Mapping[Count, tuple[str, str, str]]] = {
    Count.GRANT_ENDED: ("stepgrant_grants_ended", "Grants that ended, by why.", "code"),
    Count.GRANT_HELD_SECONDS: (
        "stepgrant_grant_held_seconds",
        "Seconds that grants were held, added when each ends.",
        "",
    ),
    Count.REDEMPTION: ("stepgrant_redemptions", "Uses that resources asked for, by answer.", "outcome"),
    Count.FEED_CUT_OFF: ("stepgrant_feed_readers_cut_off", "Resources cut off the feed, by why.", "reason"),
    Count.LEDGER_FAILURE: (
        "stepgrant_ledger_failures",
        "Appends that failed or have no outcome, and closures.",
        "kind",
    ),
    Count.QUOTA_REFUSAL: ("stepgrant_quota_refusals", "What was refused to identities that ask too much.", "errand"),
    Count.RELOAD: ("stepgrant_policy_reloads", "Loads of the policy directory, by result.", "result"),
    Count.CALLER_DENIED: ("stepgrant_callers_denied", "Callers whose identity or right was refused.", ""),
    Count.BUNDLE_REFUSED: ("stepgrant_bundles_refused", "Federated bundles that went back, or changed unsaid.", ""),
}
"""Name without `_total`, what it says, and its label ("" = none)."""

TIMINGS: Final[Mapping[Timing, tuple[str, str]]] = {
    Timing.LEDGER_APPEND: ("stepgrant_ledger_append_seconds", "From a group of batches to its being durable."),
    Timing.REVOKE_TO_FEED: (
        "stepgrant_revoke_to_feed_seconds",
        "From the end of a grant, or a lock, to its event written to a resource's stream, each resource counted.",
    ),
}


class Level(Enum):
    """What is read once a second."""

    LIVE_GRANTS = "Grants that are live, or about to be delivered."
    LIVE_TASKS = "Tasks that are open."
    OPEN_STREAMS = "Streams of agents, resources and operators that are open."
    LOCKS = "Locks in force."
    LEDGER_WAITING_EVENTS = "Events that are not durable yet."
    LEDGER_OLDEST_WAITING_SECONDS = "How long the oldest of them waits."
    LEDGER_DISK_FREE_BYTES = "Bytes that are free on the ledger's disk."
    FEED_AGE_SECONDS = "Since the last heartbeat on the feed."
    FEED_SUBSCRIBERS = "Resources that watch."
    SVID_EXPIRY_TIMESTAMP_SECONDS = "When the gateway's own SVID expires; 0 = there is none."
    BUNDLE_EXPIRY_TIMESTAMP_SECONDS = "When the first authority of the own trust domain expires; 0 = there is none."
    FEDERATED_BUNDLES_STALE = "Foreign trust domains whose endpoint has given no good bundle for too long."
    SIGNING_KEY_EXPIRY_TIMESTAMP_SECONDS = "When the key that signs grants is replaced."
    CLOCK_BEHIND_SECONDS = "How far the wall clock is behind the latest durable event."
    EVENT_LOOP_LAG_SECONDS = "How much later than asked for the last beat of the second came."
    RETENTION_AGE_SECONDS = "Since inputs that were due were last destroyed; more than an hour and some are overdue."


class Metrics:
    """`Observer` that counts for Prometheus; `page` is what it scrapes. Safe to ask from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._decisions = Counter(
            "stepgrant_decisions", "Decisions, by boundary, outcome and code of the denial.",
            ("boundary", "outcome", "code"), registry=self._registry,
        )  # fmt: skip
        self._deciding = Histogram(
            "stepgrant_decision_seconds", "From the request to the decision: locks, policy, terms; no disk.",
            ("boundary",), registry=self._registry, buckets=BUCKETS,
        )  # fmt: skip
        self._answering = Histogram(
            "stepgrant_answer_seconds", "From the request to its answer: recorded, and signed if granted.",
            ("boundary", "outcome"), registry=self._registry, buckets=BUCKETS,
        )  # fmt: skip
        self._counters = {
            what: Counter(name, text, (label,) if label else (), registry=self._registry)
            for what, (name, text, label) in COUNTERS.items()
        }
        self._timings = {
            what: Histogram(name, text, registry=self._registry, buckets=BUCKETS)
            for what, (name, text) in TIMINGS.items()
        }
        # Looking up a series by its labels costs more than counting in it.
        self._series: dict[tuple[Boundary, str], tuple[Counter, Histogram, Histogram]] = {}
        self._counted: dict[tuple[Count, str], Counter] = {}
        self._levels: Mapping[Level, float] = {}
        self._policy = ""
        self._troubles: Mapping[str, bool] = {}
        self._registry.register(self)

    def decided(self, course: Course, code: str, answered: timedelta) -> None:
        """See `Observer`."""
        series = self._series.get((course.boundary, code)) or self._begin(course.boundary, code)
        decisions, answering, deciding = series
        decisions.inc()
        answering.observe((answered - course.began).total_seconds())
        if course.decided is not None:
            deciding.observe((course.decided - course.began).total_seconds())

    def count(self, what: Count, label: str = "", by: float = 1.0) -> None:
        """See `Observer`."""
        counted = self._counted.get((what, label))
        if counted is None:
            counter = self._counters[what]
            counted = self._counted[what, label] = counter.labels(label) if COUNTERS[what][2] else counter
        counted.inc(by)

    def time(self, what: Timing, took: timedelta) -> None:
        """See `Observer`."""
        self._timings[what].observe(took.total_seconds())

    def _begin(self, boundary: Boundary, code: str) -> tuple[Counter, Histogram, Histogram]:
        outcome = "denied" if code else "granted"
        series = self._series[boundary, code] = (
            self._decisions.labels(boundary.value, outcome, code),
            self._answering.labels(boundary.value, outcome),
            self._deciding.labels(boundary.value),
        )
        return series

    def show(self, levels: Mapping[Level, float], policy: str, troubles: Mapping[str, bool]) -> None:
        """What is true now: levels, the digest of the active policy set, and of each check of health whether it fails."""
        self._levels, self._policy, self._troubles = levels, policy, troubles

    def page(self) -> bytes:
        """Everything, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What `show` was told last; for the registry."""
        for level, value in self._levels.items():
            yield GaugeMetricFamily(f"stepgrant_{level.name.lower()}", level.value, value)
        policy = GaugeMetricFamily("stepgrant_policy_info", "1 for the active policy set.", labels=("digest",))
        if self._policy:
            policy.add_metric((self._policy,), 1)
        yield policy
        failing = GaugeMetricFamily("stepgrant_check_failing", "1 while a check of health fails.", labels=("check",))
        for check, fails in self._troubles.items():
            failing.add_metric((check,), fails)
        yield failing
