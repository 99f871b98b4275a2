"""Pictures of what was measured."""

import itertools
import re
from xml.etree import ElementTree as ET

import chart
import pytest

PARTS = {"parts": [{"name": "reading <it>", "us": 100}, {"name": "deciding", "us": 250}], "total_us": 400}
SVG = "{http://www.w3.org/2000/svg}"


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_each_part_of_a_decision_is_named_with_its_share_and_what_is_left_is_not_hidden():
    shown = words(chart.decision(PARTS))
    for name, us, share in (
        ("reading <it>", "100 us", "25%"),
        ("deciding", "250 us", "62%"),
        ("not told apart", "50 us", "12%"),
    ):
        assert shown.index(us) == shown.index(name) + 1
        assert shown[shown.index(name) + 2] == share


def test_parts_lie_end_to_end_at_their_size():
    boxes = [
        (float(element.get("x", "0")), float(element.get("width", "")))
        for element in ET.fromstring(chart.decision(PARTS)).iter(f"{SVG}rect")
    ][1:]
    below = boxes[3:]
    for (x, width), (after, _) in itertools.pairwise(below):
        assert x + width == pytest.approx(after, abs=0.2)
    assert below[1][1] / below[0][1] == pytest.approx(2.5, abs=0.05)


def test_every_picture_has_colours_for_light_and_for_dark():
    report = {"measured": {"stream_p50": {"ratio": 2.5, "ratio_quartiles": [2.0, 3.0]}}, "spans_us": {}}
    for svg in (chart.decision(PARTS), chart.run(report), chart.series("It", [("m", [0.0, 1.0], {"a": [0.0, 2.0]})])):
        ET.fromstring(svg)
        used = set(re.findall(r'class="(?:curve )?(\w+)"', svg)) - {"curve"}
        light, dark = svg.split("prefers-color-scheme: dark")
        assert used
        assert all(f".{name} " in light and f".{name} " in dark.split("</style>")[0] for name in used)


def test_a_run_says_the_ratio_of_each_duel_and_its_goal():
    report = {
        "measured": {"stream_p50": {"ratio": 2.5, "ratio_quartiles": [2.0, 3.0]}},
        "spans_us": {"refused_after_report": {"p50": 1500, "p99": 9000, "max": 20_000}},
    }
    shown = words(chart.run(report))
    assert "stream_p50  (goal 3)" in shown
    assert "2.50" in shown
    assert "1.5 / 9.0" in shown
