"""How a run went, as one HTML page in its folder: curves of loss, error and learning rate, and the first filters."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backends.base import Array
from backends.checkpoint import LAST, Checkpoint, load
from backends.pages import document, table, write_text
from backends.reporting import METRICS
from backends.svg import colour, line, picture, text
from spec.language import Conv

REPORT = "report.html"
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 40
POINTS = 200
"""At most so many points of a curve; where there are more steps, each is a mean, and the band spans what it is of."""
COLUMNS, SIDE = 16, 44
"""Filters beside one another, and pixels of a filter's side at least."""
_STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); gap: 1.5rem; }
.filters { image-rendering: pixelated; max-width: 100%; }
.label { white-space: nowrap; }
"""


@dataclass(frozen=True)
class Curve:
    """Values by epoch; a band around them where each is a mean."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def write_report(folder: Path) -> Path:
    """Write the page of the run in `folder`, from its metrics and its last checkpoint. Returns its path.

    Raises OSError, CheckpointError.
    """
    events = [json.loads(words) for words in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    path = folder / REPORT
    write_text(path, page(events, load(folder / LAST)))
    return path


def page(events: Sequence[dict[str, Any]], last: Checkpoint) -> str:
    """The page for the events of ``metrics.jsonl`` and the checkpoint at their end."""
    spec, progress = last.spec, last.progress
    epochs = [event for event in events if event["event"] == "epoch"]
    best = progress.best
    facts = [
        f"{progress.epoch} of {spec.training.epochs} epochs, {progress.step:,} steps of {spec.training.batch_size}"
    ]
    facts.append(f"{last.backend} in {last.execution.precision}, seed {progress.seed}, data {progress.source}")
    facts.append(f"specification {spec.hash[:12]}")
    facts += [f"{name} {version}" for name, version in last.versions.items()]
    body = [f'<p>{escape(spec.title)}</p><p class="quiet">{escape("; ".join(facts))}</p>']
    if best is not None:
        body.append(f"<p>Best: top-1 {100 - 100 * best[1]:.2f} % after epoch {best[0] + 1}, on central crops.</p>")
    plots = [
        ("Loss", [_steps(events), *_by_epoch(epochs, {"validation_loss": "validation"})], "cross-entropy", False),
        ("Error", _by_epoch(epochs, _ERRORS), "error, %", False),
        ("Learning rate", [_rates(events)], "learning rate", True),
    ]
    drawn = [
        f"<div><h3>{name}</h3>{_key(curves)}{plot(name, curves, label, logarithmic=logarithmic)}</div>"
        for name, curves, label, logarithmic in plots
        if any(len(curve.x) for curve in curves)
    ]
    body.append(f'<div class="plots">{"".join(drawn)}</div>')
    body += _filters(last)
    if epochs:
        rows = [[show(epoch) for show in _COLUMNS.values()] for epoch in epochs]
        body.append("<h2>Epochs</h2>" + table(tuple(_COLUMNS), rows))
    return document(f"{spec.name}, trained with {last.backend}", body, _STYLE)


_ERRORS = {
    "top1_error": "top-1, training",
    "validation_top1_error": "top-1, validation",
    "top5_error": "top-5, training",
    "validation_top5_error": "top-5, validation",
}
_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "epoch": lambda e: str(e["epoch"] + 1),
    "loss": lambda e: f"{e['loss']:.4f}",
    "validation loss": lambda e: f"{e['validation_loss']:.4f}",
    "top-1 %": lambda e: f"{100 - 100 * e['validation_top1_error']:.2f}",
    "top-5 %": lambda e: f"{100 - 100 * e['validation_top5_error']:.2f}",
    "learning rate": lambda e: f"{e['learning_rate']:g}",
    "img/s": lambda e: f"{e['images_per_second']:,.0f}",
    "seconds": lambda e: f"{e['seconds']:,.0f}",
}


# --- curves -----------------------------------------------------------------------------------------------------------


def _place(events: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[float]]:
    """The steps, and where in the run each is, in epochs."""
    steps = [event for event in events if event["event"] == "step"]
    length = next((event["steps_per_epoch"] for event in events if event["event"] == "run"), 1)
    return steps, [(event["step"] + 1) / length for event in steps]


def _steps(events: Sequence[dict[str, Any]]) -> Curve:
    steps, places = _place(events)
    losses = np.array([event["loss"] for event in steps])
    parts = [part for part in np.array_split(np.arange(len(steps)), min(POINTS, max(1, len(steps)))) if len(part)]
    return Curve(
        "training",
        [places[part[-1]] for part in parts],
        [float(losses[part].mean()) for part in parts],
        [float(losses[part].min()) for part in parts],
        [float(losses[part].max()) for part in parts],
    )


def _rates(events: Sequence[dict[str, Any]]) -> Curve:
    steps, places = _place(events)
    rates = [event["learning_rate"] for event in steps]
    # Only where it changes, so that a drop is a drop.
    ends = (0, len(rates) - 1)
    kept = [i for i in range(len(rates)) if i in ends or rates[i] != rates[i - 1] or rates[i] != rates[i + 1]]
    kept = [i for i in kept if rates[i] > 0]
    return Curve("learning rate", [places[i] for i in kept], [rates[i] for i in kept])


def _by_epoch(epochs: Sequence[dict[str, Any]], fields: dict[str, str]) -> list[Curve]:
    scale = 100 if fields is _ERRORS else 1
    return [
        Curve(name, [epoch["epoch"] + 1 for epoch in epochs], [scale * epoch[field] for epoch in epochs])
        for field, name in fields.items()
    ]


def _key(curves: Sequence[Curve]) -> str:
    if len(curves) == 1:
        return ""
    patch = '<span class="label"><span class="key" style="background:{}"></span>{}</span> '
    return "<p>" + "".join(patch.format(colour(i), escape(curve.name)) for i, curve in enumerate(curves)) + "</p>"


def marks(low: float, high: float, logarithmic: bool = False) -> list[float]:
    """Round numbers that span `low` to `high`: equal steps, or powers of ten."""
    if logarithmic:
        first = math.floor(math.log10(low))
        return [10.0**power for power in range(first, max(first + 1, math.ceil(math.log10(high))) + 1)]
    rough = max((high - low) / 5, 1e-9 * max(1.0, abs(high)))
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(first + 1, last) + 1)]


def plot(title: str, curves: Sequence[Curve], y_label: str, *, logarithmic: bool = False) -> str:
    """Curves over epochs. Not-finite values do not occur: a run with one has stopped before writing it."""
    shown = [curve for curve in curves if len(curve.x)]
    values = [v for curve in shown for v in (*curve.y, *curve.low, *curve.high)]
    ys = marks(min(values) if logarithmic else min(0.0, *values), max(values), logarithmic)
    xs = marks(0, max(x for curve in shown for x in curve.x))
    scale = math.log10 if logarithmic else float
    low, high = scale(ys[0]), scale(ys[-1])

    def at_x(x: float) -> float:
        return LEFT + x / xs[-1] * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return TOP + (high - scale(y)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for mark in ys:
        parts.append(line(LEFT, at_y(mark), WIDTH - RIGHT, at_y(mark), **{"class": "grid"}))
        parts.append(text(LEFT - 6, at_y(mark) + 4, f"{mark:,g}" if not logarithmic else f"{mark:g}", "end"))
    parts += [text(at_x(x), HEIGHT - BOTTOM + 16, f"{x:g}") for x in xs]
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 6, "epochs"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(text(14, middle, y_label, transform=f"rotate(-90 14 {middle:.1f})"))
    for i, curve in enumerate(curves):
        points = [f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True)]
        if len(curve.low):
            there = [f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in zip(curve.x, curve.high, strict=True)]
            back = [f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in zip(curve.x, curve.low, strict=True)]
            band = " ".join([*there, *reversed(back)])
            parts.append(f'<polygon points="{band}" fill="{colour(i)}" opacity="0.2"/>')
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour(i)}" stroke-width="2"/>')
        if len(points) <= 40:
            for place, y in zip(points, curve.y, strict=True):
                x, _, height = place.partition(",")
                words = escape(f"{curve.name}: {y:.4g}")
                parts.append(f'<circle cx="{x}" cy="{height}" r="3" fill="{colour(i)}"><title>{words}</title></circle>')
    return picture(WIDTH, HEIGHT, title, parts)


# --- filters ----------------------------------------------------------------------------------------------------------


def _filters(last: Checkpoint) -> list[str]:
    first = next((layer for layer in last.spec.layers if isinstance(layer, Conv)), None)
    if first is None:
        return []
    kernels = last.parameters[f"{first.name}.weight"]
    if kernels.shape[1] not in (1, 3):
        return []  # neither grey nor colour: there is no picture of it
    if kernels.shape[1] == 3 and last.spec.data.channel_order == "bgr":
        kernels = kernels[:, ::-1]
    stream = io.BytesIO()
    filter_sheet(kernels).save(stream, "PNG")
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    count, _, height, width = kernels.shape
    reach = _reach(kernels)
    words = f"{count} filters of {height} x {width}, in the order of the channels; grey is 0, white +{reach:.3g} "
    words += f"or more, black -{reach:.3g} or less"
    return [
        f"<h2>The filters of {escape(first.name)}</h2>",
        f'<p><img class="filters" alt="{escape(words)}" src="data:image/png;base64,{encoded}"></p>',
        f'<p class="quiet">{escape(words)}.</p>',
    ]


def filter_sheet(kernels: Array) -> Image.Image:
    """Kernels (O, C, H, W), C 1 or 3, side by side with nothing between: grey where a weight is 0, of one scale."""
    count, _, height, width = kernels.shape
    enlarged, gap = max(1, -(-SIDE // max(height, width))), 1
    shares = np.clip(np.asarray(kernels, np.float64) / (_reach(kernels) or 1.0), -1, 1)
    levels = np.rint(127.5 + 127.5 * shares).astype(np.uint8).transpose(0, 2, 3, 1)
    columns, rows = min(COLUMNS, count), -(-count // COLUMNS)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 4), 0, np.uint8)
    for i, kernel in enumerate(levels):
        top, left = gap + i // COLUMNS * (height + gap), gap + i % COLUMNS * (width + gap)
        sheet[top : top + height, left : left + width, :3] = kernel
        sheet[top : top + height, left : left + width, 3] = 255
    sheet = sheet.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
    return Image.fromarray(sheet)


def _reach(kernels: Array) -> float:
    """What all but one weight in two hundred stay below: a few large ones would leave the rest grey."""
    return float(np.quantile(np.abs(kernels), 0.995))
