"""What a soak says for itself."""

import json
from pathlib import Path
from typing import Any

import soak_report


def sample(number: int, *, mib: float) -> dict[str, Any]:
    lag = {"p50": 0.1, "p99": 1.0, "max": 2.0}
    process = {"rss_kib": mib * 1024, "descriptors": 40, "threads": 9, "lag_ms": lag, "census": {"Task": 5 + number}}
    return {
        "second": 10.0 * number,
        "rounds": {"refund": 10},
        "round_us": {"p50": 20_000, "p99": 50_000},
        "ledger_bytes": 1000 * number,
        "gateway": process,
        "resource": dict(process),
    }


def document(samples: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "begun": "2026-11-22T03:00:00+00:00",
        "minutes": 5.0,
        "most_rounds_per_second": 100.0,
        "rounds_per_second": 50.0,
        "failures": {},
        "ledger": {"verified": True, "said": '{"ok": true}', "seconds": 1.5, "bytes": 2**20},
        "machine": {"processors": 2, "load": [0.1, 1.2], "python": "3.11.7"},
        "samples": samples,
    } | changes


def test_growth_after_the_warm_up_is_told_and_the_warm_up_does_not_count():
    steady = [sample(number, mib=100 if number > 20 else 2 * number) for number in range(100)]
    assert soak_report.trends(steady)["gateway: resident memory"].slope == 0
    assert "gateway: resident memory: +0.00 ± 0.00 MiB (flat within 1)" in soak_report.summary(document(steady))
    leaking = [sample(number, mib=100 + number) for number in range(100)]
    assert round(soak_report.trends(leaking)["gateway: resident memory"].slope) == 360
    assert "gateway: resident memory: +360.00 ± 0.00 MiB (**grows**)" in soak_report.summary(document(leaking))


def test_what_levels_off_shows_it_from_quarter_to_quarter():
    seen = [sample(number, mib=min(100 + number, 150)) for number in range(1, 101)]
    assert soak_report.levels(seen)["resource"] == [112.5, 137.0, 150.0, 150.0]


def test_a_ledger_that_does_not_verify_and_work_that_failed_are_in_the_verdict():
    bad = {"verified": False, "said": "record 7 does not follow", "seconds": 1.0, "bytes": 0}
    verdict = soak_report.summary(document([sample(1, mib=100)], ledger=bad, failures={"refund: Denied": 3}))
    assert "NOT verified: record 7 does not follow" in verdict
    assert "FAILED 3 times: refund: Denied" in verdict


def test_the_page_comes_with_its_data_and_its_chart(tmp_path: Path):
    seen = document([sample(number, mib=100) for number in range(30)])
    soak_report.write(seen, tmp_path / "soak.md")
    page = (tmp_path / "soak.md").read_text()
    assert "| gateway: resident memory | +0.00 ± 0.00 MiB (flat within 1) |" in page
    assert "300 refund" in page
    assert "| gateway | `Task` | 13 | 34 |" in page
    assert max(map(len, page.splitlines())) <= 180
    assert json.loads((tmp_path / "soak.json").read_text()) == seen
    assert (tmp_path / "soak.svg").read_text().startswith("<svg")
