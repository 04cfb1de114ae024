"""The two plots of a page as SVG: no script, no font and no file from elsewhere; colours follow the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from backends.svg import colour, line, picture, text

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 40


@dataclass(frozen=True)
class Point:
    """A median and the range around it."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """The points of one engine."""

    name: str
    points: tuple[Point, ...]


def ticks(low: float, high: float) -> list[float]:
    """At least two of 1, 2 and 5 times powers of ten, that span `low` to `high`, both above 0."""
    steps = [
        float(f"{m}e{e}")
        for e in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)  # log10 rounds
        for m in (1, 2, 5)
    ]
    first = max(i for i, step in enumerate(steps) if step <= low)
    last = min(i for i, step in enumerate(steps) if step >= high and i > first)
    return steps[first : last + 1]


def scaling(title: str, series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Lines through medians with a bar from the lowest to the highest round, both axes logarithmic."""
    points = [point for one in series for point in one.points]
    xs = sorted({point.x for point in points})
    marks = ticks(min(point.low for point in points), max(point.high for point in points))
    x0, x1, y0, y1 = math.log(xs[0]), math.log(xs[-1]), math.log(marks[0]), math.log(marks[-1])

    def at_x(x: float) -> float:
        share = (math.log(x) - x0) / (x1 - x0) if x1 > x0 else 0.5
        return LEFT + 24 + share * (WIDTH - LEFT - RIGHT - 48)

    def at_y(y: float) -> float:
        return TOP + (y1 - math.log(y)) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for mark in marks:
        parts.append(line(LEFT, at_y(mark), WIDTH - RIGHT, at_y(mark), **{"class": "grid"}))
        parts.append(text(LEFT - 6, at_y(mark) + 4, f"{mark:,g}", "end"))
    parts += [text(at_x(x), HEIGHT - BOTTOM + 16, f"{x:g}") for x in xs]
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 6, x_label))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(text(14, middle, y_label, transform=f"rotate(-90 14 {middle:.1f})"))
    for i, one in enumerate(series):
        path = " ".join(f"{at_x(point.x):.1f},{at_y(point.y):.1f}" for point in one.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(i)}" stroke-width="2"/>')
        for point in one.points:
            x, words = at_x(point.x), f"{one.name}, {point.x:g}: {point.y:,.4g} ({point.low:,.4g} to {point.high:,.4g})"
            parts.append(line(x, at_y(point.low), x, at_y(point.high), stroke=colour(i), stroke_width="2"))
            parts.append(
                f'<circle cx="{x:.1f}" cy="{at_y(point.y):.1f}" r="4" fill="{colour(i)}">'
                f"<title>{escape(words)}</title></circle>"
            )
    return picture(WIDTH, HEIGHT, title, parts)


def ranges(title: str, rows: Sequence[tuple[str, tuple[float, ...]]], names: Sequence[str], x_label: str) -> str:
    """One row a series: a bar from its first value to its last, a mark for each, on one logarithmic axis.

    rows: (series, values in ascending order); names: what the values are, for the marks' titles.
    """
    step, left = 34, 170
    height = TOP + step * len(rows) + BOTTOM
    marks = ticks(min(values[0] for _, values in rows), max(values[-1] for _, values in rows))
    x0, x1 = math.log(marks[0]), math.log(marks[-1])

    def at_x(x: float) -> float:
        return left + (math.log(x) - x0) / (x1 - x0) * (WIDTH - left - RIGHT - 12)

    parts = []
    for mark in marks:
        parts.append(line(at_x(mark), TOP, at_x(mark), height - BOTTOM, **{"class": "grid"}))
        parts.append(text(at_x(mark), height - BOTTOM + 16, f"{mark:,g}"))
    parts.append(text((left + WIDTH) / 2, height - 6, x_label))
    for i, (name, values) in enumerate(rows):
        y = TOP + step * (i + 0.5)
        parts.append(text(left - 10, y + 4, name, "end"))
        parts.append(line(at_x(values[0]), y, at_x(values[-1]), y, stroke=colour(i), stroke_width="6", opacity="0.45"))
        for what, value in zip(names, values, strict=True):
            parts.append(
                f'<circle cx="{at_x(value):.1f}" cy="{y:.1f}" r="5" fill="{colour(i)}">'
                f"<title>{escape(f'{name}, {what}: {value:,.4g}')}</title></circle>"
            )
    return picture(WIDTH, height, title, parts)
