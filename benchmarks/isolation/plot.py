"""Draw `plot.svg` beside this file from `results.json`: `python -m benchmarks.isolation.plot`.

One line per row of the table, one mark per side, on a logarithmic scale of the ratio to the
resident pipeline. Marks, not bars: such a scale has no zero from which a bar could start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from benchmarks.isolation.results import CELERY, SPAWN, TEMPLATE, MeasuredRow, Results, read
from benchmarks.isolation.table import TITLES

FOLDER = Path(__file__).parent
WIDTH, LEFT, RIGHT, TOP, LINE, BOTTOM = 760, 290, 24, 64, 34, 40
TICKS = (0.5, 1, 1.5, 2, 3, 5, 10, 20, 40, 80)
# Three that stay apart without colour as well.
MARKS = {
    CELERY: '<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="#7a7a7a"/>',
    TEMPLATE: '<path d="M{x:.1f} {y:.1f}m0-8l8 8l-8 8l-8-8z" fill="#0b6e4f"/>',
    SPAWN: '<path d="M{x:.1f} {y:.1f}m-6-6h12v12h-12z" fill="#fff" stroke="#b3541e"/>',
}


class Scale:
    """Where a ratio stands, so that all of `rows` fit."""

    def __init__(self, rows: list[MeasuredRow]) -> None:
        ratios = [row.ratio(side) for row in rows for side in MARKS]
        self._low = math.log(max((tick for tick in TICKS if tick <= min(ratios)), default=TICKS[0]))
        self._high = math.log(max(ratios) * 1.15)

    def x(self, ratio: float) -> float:
        share = (math.log(ratio) - self._low) / (self._high - self._low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    @property
    def ticks(self) -> list[float]:
        return [tick for tick in TICKS if self._low <= math.log(tick) <= self._high]


def draw(results: Results) -> str:
    """The plot as SVG."""
    height = TOP + LINE * len(results.rows) + BOTTOM
    body = "\n".join([*_legend(), *_axis(Scale(results.rows), height), *_lines(results.rows)])
    machine = results.machine
    caption = f"{machine['cores']} cores of {machine['processor']}, {machine['date']}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        f'<text x="12" y="22" font-size="15">Wall time a picture ÷ resident pipeline</text>\n'
        f"{body}\n"
        f'<text x="12" y="{height - 10}" font-size="11" fill="#666">{escape(caption)}</text>\n'
        "</svg>\n"
    )


def _legend() -> Iterator[str]:
    for place, (side, mark) in enumerate(MARKS.items()):
        x = LEFT + 150 * place
        yield mark.format(x=x, y=40)
        yield f'<text x="{x + 14}" y="44">{escape(TITLES[side])}</text>'


def _axis(scale: Scale, height: int) -> Iterator[str]:
    bottom = height - BOTTOM
    for tick in scale.ticks:
        x, width = scale.x(tick), 2 if tick == 1 else 1
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#ddd" stroke-width="{width}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'


def _lines(rows: list[MeasuredRow]) -> Iterator[str]:
    scale = Scale(rows)
    for number, row in enumerate(rows):
        y = TOP + LINE * (number + 0.5)
        yield f'<text x="12" y="{y + 4:.1f}">{escape(row.title)}</text>'
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>'
        for side, mark in MARKS.items():
            yield mark.format(x=scale.x(row.ratio(side)), y=y)


def main() -> None:
    results = read(FOLDER / "results.json")
    (FOLDER / "plot.svg").write_text(draw(results), encoding="utf-8")


if __name__ == "__main__":
    main()
