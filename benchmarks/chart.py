"""Pictures of what was measured: where one decision's time goes, a whole run, a soak.

python benchmarks/chart.py decision parts.json docs/decision.svg
python benchmarks/chart.py run bench.json bench.svg
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from drawing import Sheet

WIDTH: Final = 920
LABELS: Final = 300
"""Width of the column of names."""
FIGURES: Final = 110
"""Width of the column of figures."""
ROW: Final = 26
MARGIN: Final = 24
BAR: Final = 14
GOALS: Final[Mapping[str, float]] = {
    "stream_p50": 3.0,
    "fairness_p99": 2.0,
    "decision_100000_policies": 1.3,
    "refused_after_report": 10.0,
    "refused_after_lock": 10.0,
    "refused_after_policy": 10.0,
    "refused_after_kill": 50.0,
}
"""What is aimed at: ratios at the median, milliseconds at the 99th percentile."""


def decision(measured: Mapping[str, Any]) -> str:
    """One stacked bar, and below it each part at its place in time. `parts`: name and us, in order; `total_us` the whole.

    What the parts leave of the whole is shown as such.
    """
    parts = [(str(part["name"]), float(part["us"])) for part in measured["parts"]]
    total = float(measured["total_us"])
    rest = total - sum(us for _, us in parts)
    if rest > total / 200:
        parts.append(("not told apart", rest))
    sheet = Sheet(WIDTH, MARGIN * 3 + 60 + ROW * len(parts), "Where one decision's microseconds go")
    left, room = MARGIN + LABELS, WIDTH - 2 * MARGIN - LABELS - FIGURES
    sheet.text(MARGIN, 34, "One decision, from Declare to Granted", size=15)
    sheet.text(WIDTH - MARGIN, 34, f"{total:,.0f} us", anchor="end", size=15)
    whole, begun = WIDTH - 2 * MARGIN, 0.0
    for number, (_, us) in enumerate(parts):
        sheet.box(MARGIN + whole * begun / total, 48, whole * us / total - 1, 26, number)
        begun += us
    begun = 0.0
    for number, (name, us) in enumerate(parts):
        y = 100 + ROW * number
        sheet.text(MARGIN, y + 11, name)
        sheet.box(left + room * begun / total, y, room * us / total, BAR, number)
        sheet.text(WIDTH - MARGIN - 42, y + 11, f"{us:,.0f} us", anchor="end", faint=True)
        sheet.text(WIDTH - MARGIN, y + 11, f"{us / total:.0%}", anchor="end", faint=True)
        begun += us
    return sheet.svg()


def run(report: Mapping[str, Any]) -> str:
    """Every ratio with the quartiles of its turns, and every span from its median to its 99th percentile."""
    ratios, spans = report["measured"], report["spans_us"]
    height = MARGIN + ROW * (len(ratios) + len(spans)) + 80 * (bool(ratios) + bool(spans))
    sheet = Sheet(WIDTH, height, "Stepgrant, measured")
    y = MARGIN + 10.0
    if ratios:
        rows = {
            name: (one["ratio_quartiles"][0], one["ratio"], one["ratio_quartiles"][1]) for name, one in ratios.items()
        }
        y = _rows(sheet, y, "Ours against the least there could be: ratio, and quartiles of the turns", rows, "{:.2f}")
    if spans:
        rows = {name: (one["p50"] / 1e3, one["p99"] / 1e3, one["max"] / 1e3) for name, one in spans.items()}
        _rows(sheet, y, "Milliseconds at the median, at the 99th percentile, and at most", rows, "{:,.1f}")
    return sheet.svg()


def series(title: str, panels: Sequence[tuple[str, Sequence[float], Mapping[str, Sequence[float]]]]) -> str:
    """Panels below each other over the same time: a name with its unit, minutes, and named values."""
    each = 110
    sheet = Sheet(WIDTH, MARGIN * 2 + 30 + each * len(panels), title)
    sheet.text(MARGIN, 34, title, size=15)
    left, room = MARGIN + 70, WIDTH - 2 * MARGIN - 70
    for number, (name, minutes, curves) in enumerate(panels):
        top, bottom = 84 + each * number, 150 + each * number
        most = _rounded(max(max(values) for values in curves.values()))
        end = max(minutes[-1], 1e-9)
        sheet.text(MARGIN, top - 10, name)
        for at, mark in ((top, most), (bottom, 0.0)):
            sheet.line(left, at, left + room, at)
            sheet.text(left - 8, at + 4, f"{mark:g}", anchor="end", faint=True, size=11)
        for colour, (label, values) in enumerate(curves.items()):
            points = [
                (left + room * minute / end, bottom - (bottom - top) * value / most)
                for minute, value in zip(minutes, values, strict=True)
            ]
            sheet.curve(points, colour)
            x = WIDTH - MARGIN - 110 * (len(curves) - colour) + 14
            sheet.box(x - 14, top - 20, 10, 10, colour)
            sheet.text(x, top - 10, label, faint=True, size=11)
    sheet.text(WIDTH - MARGIN, 34, f"{panels[0][1][-1]:.0f} minutes", anchor="end", faint=True)
    return sheet.svg()


def _rows(sheet: Sheet, y: float, title: str, rows: Mapping[str, tuple[float, float, float]], figure: str) -> float:
    """Rows of three values each on one logarithmic scale, the middle one told first; where the next rows begin."""
    values = [value for row in rows.values() for value in row if value > 0]
    low, high = math.log10(min(*values, 0.5)), math.log10(max(values))
    left, room = MARGIN + LABELS, WIDTH - 2 * MARGIN - LABELS - FIGURES

    def at(value: float) -> float:
        return left + room * (math.log10(max(value, 10**low)) - low) / (high - low)

    sheet.text(MARGIN, y, title, size=15)
    top, bottom = y + 16, y + 24 + ROW * len(rows)
    for mark in _marks(low, high):
        sheet.line(at(mark), top, at(mark), bottom)
        sheet.text(at(mark), bottom + 14, f"{mark:g}", anchor="middle", faint=True, size=11)
    for number, (name, (first, second, third)) in enumerate(rows.items()):
        middle = y + 24 + ROW * number
        goal = GOALS.get(name)
        sheet.text(MARGIN, middle + 11, name if goal is None else f"{name}  (goal {goal:g})")
        sheet.box(at(first), middle + 4, at(third) - at(first), 6, number, faded=True)
        shown = (second,) if figure == "{:.2f}" else (first, second)
        for value in shown:
            sheet.box(at(value) - 2, middle, 4, BAR, number)
        sheet.text(
            WIDTH - MARGIN, middle + 11, " / ".join(figure.format(value) for value in shown), anchor="end", faint=True
        )
    return bottom + 60


def _marks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: each 1, and 2 and 5 as well where there are few."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    marks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [mark for mark in marks if low <= math.log10(mark) <= high]


def _rounded(value: float) -> float:
    """The next 1, 2, 3 or 5 with zeros."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 3, 5, 10) if power * step >= value)


def main() -> int:
    """Draws a file from a file."""
    kind, source, target = sys.argv[1:]
    draw = {"decision": decision, "run": run}[kind]
    Path(target).write_text(draw(json.loads(Path(source).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
