"""The plots of a page as SVG: no script, no font and no file from elsewhere; colours follow the page's."""

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


@dataclass(frozen=True)
class _Axes:
    """Two logarithmic axes."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        low, high = self.x
        share = math.log(value / low) / math.log(high / low) if high > low else 0.5
        return LEFT + 24 + share * (WIDTH - LEFT - RIGHT - 48)

    def at_y(self, value: float) -> float:
        low, high = self.y
        return TOP + math.log(high / value) / math.log(high / low) * (HEIGHT - TOP - BOTTOM)

    def drawn(self, xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str) -> list[str]:
        """Lines and numbers at `ys`, numbers at `xs`, and the names of both."""
        parts = []
        for y in ys:
            parts.append(line(LEFT, self.at_y(y), WIDTH - RIGHT, self.at_y(y), **{"class": "grid"}))
            parts.append(text(LEFT - 6, self.at_y(y) + 4, f"{y:,g}", "end"))
        parts += [text(self.at_x(x), HEIGHT - BOTTOM + 16, f"{x:,g}") for x in xs]
        parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 6, x_label))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        return [*parts, text(14, middle, y_label, transform=f"rotate(-90 14 {middle:.1f})")]

    def dot(self, x: float, y: float, number: int, words: str) -> str:
        """A point of series `number`, with what it is when one rests on it."""
        return (
            f'<circle cx="{self.at_x(x):.1f}" cy="{self.at_y(y):.1f}" r="4" fill="{colour(number)}">'
            f"<title>{escape(words)}</title></circle>"
        )


def scaling(title: str, series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Lines through medians with a bar from the lowest to the highest round, both axes logarithmic."""
    points = [point for one in series for point in one.points]
    xs = sorted({point.x for point in points})
    marks = ticks(min(point.low for point in points), max(point.high for point in points))
    axes = _Axes((xs[0], xs[-1]), (marks[0], marks[-1]))
    parts = axes.drawn(xs, marks, x_label, y_label)
    for i, one in enumerate(series):
        path = " ".join(f"{axes.at_x(point.x):.1f},{axes.at_y(point.y):.1f}" for point in one.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(i)}" stroke-width="2"/>')
        for point in one.points:
            x, words = axes.at_x(point.x), f"{one.name}, {point.x:g}: {point.y:,.4g}"
            parts.append(line(x, axes.at_y(point.low), x, axes.at_y(point.high), stroke=colour(i), stroke_width="2"))
            parts.append(axes.dot(point.x, point.y, i, f"{words} ({point.low:,.4g} to {point.high:,.4g})"))
    return picture(WIDTH, HEIGHT, title, parts)


Named = tuple[int, str, float, float]
"""A point: the number of its series, its name, x and y."""


def roofline(title: str, points: Sequence[Named], peak: float, bandwidth: float) -> str:
    """GFLOP/s over operations for each byte, under the roof of `peak` GFLOP/s and `bandwidth` GB/s."""
    ridge = peak / bandwidth
    xs = ticks(min(ridge / 4, *(point[2] for point in points)), max(ridge * 4, *(point[2] for point in points)))
    ys = ticks(min(*(point[3] for point in points), xs[0] * bandwidth), peak)
    axes = _Axes((xs[0], xs[-1]), (ys[0], ys[-1]))
    parts = axes.drawn(xs[:: max(1, len(xs) // 8)], ys, "operations for each byte", "GFLOP/s")
    corners = [(xs[0], xs[0] * bandwidth), (ridge, peak), (xs[-1], peak)]
    path = " ".join(f"{axes.at_x(x):.1f},{axes.at_y(y):.1f}" for x, y in corners)
    parts.append(f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="2"/>')
    parts += [axes.dot(x, y, number, f"{name}: {y:,.4g} GFLOP/s") for number, name, x, y in points]
    return picture(WIDTH, HEIGHT, title, parts)


def scatter(title: str, points: Sequence[Named], x_label: str, y_label: str) -> str:
    """A point for each, with its name beside it; both axes logarithmic."""
    xs = ticks(min(point[2] for point in points), max(point[2] for point in points))
    ys = ticks(min(point[3] for point in points), max(point[3] for point in points))
    axes = _Axes((xs[0], xs[-1]), (ys[0], ys[-1]))
    parts = axes.drawn(xs, ys[:: max(1, len(ys) // 6)], x_label, y_label)
    taken: list[tuple[float, float, float]] = []
    for number, name, x, y in sorted(points, key=lambda point: -point[3]):
        parts.append(axes.dot(x, y, number, f"{name}: {x:,.4g}, {y:.2g}"))
        left, wide = axes.at_x(x) > WIDTH / 2, 6.5 * len(name)
        start, place = axes.at_x(x) + (-8 - wide if left else 8), axes.at_y(y) + 4
        while any(abs(place - top) < 12 and start < end and first < start + wide for first, end, top in taken):
            place += 3
        taken.append((start, start + wide, place))
        parts.append(text(axes.at_x(x) + (-8 if left else 8), place, name, "end" if left else "start"))
    return picture(WIDTH, HEIGHT, title, parts)


def bars(title: str, rows: Sequence[tuple[str, float, float, float]], x_label: str) -> str:
    """One row a way: a mark at its median and a bar over its spread. rows: (way, median, low, high)."""
    wide = [(name, (low, median, high)) for name, median, low, high in rows]
    return ranges(title, wide, ("slowest", "median", "fastest"), x_label)


def ranges(
    title: str,
    rows: Sequence[tuple[str, tuple[float, ...]]],
    names: Sequence[str],
    x_label: str,
    colours: Sequence[int] | None = None,
) -> str:
    """One row a series: a bar from its first value to its last, a mark for each, on one logarithmic axis.

    rows: (series, values in ascending order); names: what the values are, for the marks' titles; colours: numbers of
    the series, where they are not those of the rows.
    """
    step, left = 34, 20 + 7 * max(len(name) for name, _ in rows)
    width = max(WIDTH, left + 440)
    height = TOP + step * len(rows) + BOTTOM
    marks = ticks(min(values[0] for _, values in rows), max(values[-1] for _, values in rows))
    x0, x1 = math.log(marks[0]), math.log(marks[-1])

    def at_x(x: float) -> float:
        return left + (math.log(x) - x0) / (x1 - x0) * (width - left - RIGHT - 12)

    parts = []
    for mark in marks:
        parts.append(line(at_x(mark), TOP, at_x(mark), height - BOTTOM, **{"class": "grid"}))
        parts.append(text(at_x(mark), height - BOTTOM + 16, f"{mark:,g}"))
    parts.append(text((left + width) / 2, height - 6, x_label))
    for row, (name, values) in enumerate(rows):
        i = row if colours is None else colours[row]
        y = TOP + step * (row + 0.5)
        parts.append(text(left - 10, y + 4, name, "end"))
        parts.append(line(at_x(values[0]), y, at_x(values[-1]), y, stroke=colour(i), stroke_width="6", opacity="0.45"))
        for what, value in zip(names, values, strict=True):
            parts.append(
                f'<circle cx="{at_x(value):.1f}" cy="{y:.1f}" r="5" fill="{colour(i)}">'
                f"<title>{escape(f'{name}, {what}: {value:,.4g}')}</title></circle>"
            )
    return picture(width, height, title, parts)
