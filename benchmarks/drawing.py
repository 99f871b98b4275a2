"""A sheet to draw on: SVG in the few shapes that our charts need, readable on light and on dark screens."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

COLOURS: Final = (
    ("#2f6fdf", "#6ea8fe"),
    ("#c2571a", "#f0955b"),
    ("#1a8a6b", "#4cc9a4"),
    ("#8250df", "#b48ef5"),
    ("#b38600", "#e3b341"),
    ("#bf3989", "#f07bbb"),
    ("#57708a", "#9db2c7"),
    ("#4d8c1f", "#8fcf5f"),
)
"""On light and on dark, told apart also by most of those who see few colours."""
PLAIN: Final = ("#1f2328", "#e6edf3")
FAINT: Final = ("#656d76", "#9198a1")
LINE: Final = ("#d0d7de", "#3d444d")
PAPER: Final = ("#ffffff", "#0d1117")


class Sheet:
    """Grows by what is drawn on it; `svg` when done. Coordinates are pixels from the top left."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._shapes: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, colour: int, *, faded: bool = False) -> None:
        """A filled rectangle, never too thin to be seen."""
        opacity = ' opacity="0.35"' if faded else ""
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" rx="2" '
            f'class="c{colour % len(COLOURS)}"{opacity}/>'
        )

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """A thin line: an axis, a mark."""
        self._shapes.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="line"/>')

    def curve(self, points: Sequence[tuple[float, float]], colour: int) -> None:
        """Straight lines from point to point."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline points="{path}" class="curve s{colour % len(COLOURS)}"/>')

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", faint: bool = False, size: int = 13
    ) -> None:
        """Words whose baseline is at `y`; `anchor` is start, middle or end."""
        kind = "faint" if faint else "plain"
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" class="{kind}">{escape(words)}</text>'
        )

    def svg(self) -> str:
        """The picture."""
        width, height = self._size
        shapes = "\n".join(self._shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
            f"<title>{escape(self._title)}</title>\n<style>\n{_style(0)}\n"
            f"@media (prefers-color-scheme: dark) {{\n{_style(1)}\n}}\n</style>\n"
            f'<rect width="{width}" height="{height}" rx="6" class="paper"/>\n{shapes}\n</svg>\n'
        )


def _style(theme: int) -> str:
    rules = [f".c{number} {{ fill: {colour[theme]} }}" for number, colour in enumerate(COLOURS)]
    rules += [f".s{number} {{ stroke: {colour[theme]} }}" for number, colour in enumerate(COLOURS)]
    rules += [f".plain {{ fill: {PLAIN[theme]} }}", f".faint {{ fill: {FAINT[theme]} }}"]
    rules += [f".paper {{ fill: {PAPER[theme]} }}", f".line {{ stroke: {LINE[theme]} }}"]
    if theme == 0:
        rules += [".curve { fill: none; stroke-width: 1.5; stroke-linejoin: round }"]
    return "\n".join(rules)
