"""The page of ``neighbours``: what is found alike, what images are taken for, and how often that is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.evaluation.scoring import softmax
from experiments.activations import Seen
from experiments.experiment import Picture, Table
from experiments.figures import QUIET, colour, panels, png
from experiments.nearest import I64, Nearest
from experiments.resampling import interval, percent
from experiments.subjects import Subject
from spec import draws
from spec.draws import Purpose

ROWS = 10
"""Queries in a picture: at most one of each class."""
SHOWN = 6
"""Neighbours of each, as in figure 4 of the paper."""
BEST = 5
TOLD = 10
"""Of the nearest, how many the sentence is about."""
_LONG = 18
"""Letters of a class's name."""
RIGHT, WRONG = colour(0), colour(1)


def one_of_each(labels: I64, most: int) -> I64:
    """The places of at most `most` queries of different classes, drawn with seed 0; in the order of their classes."""
    order = draws.permutation(0, Purpose.TEST, len(labels), epoch=1)
    _, first = np.unique(labels[order], return_index=True)
    chosen = order[np.sort(first)[:most]]
    return chosen[np.argsort(labels[chosen], kind="stable")]


def neighbour_sheet(
    subject: Subject, chosen: I64, layer: str, by_features: Nearest, by_pixels: Nearest, provenance: str
) -> bytes:
    """A row a query: itself, and the nearest items in `layer` and in pixels, each framed as right or wrong."""
    figure, ax = panels(width=9.0, height=0.7 + 0.62 * len(chosen))
    items, queries = subject.items, subject.queries
    starts = {"query": 0.0, layer: 1.5, "pixels": 1.5 + SHOWN + 0.5}
    for row, query in enumerate(chosen):
        label = int(queries.labels[query])
        _tile(ax, queries.images[query], starts["query"], row)
        ax.text(-0.2, row + 0.5, _short(queries.classes[label]), ha="right", va="center")
        for name, nearest in ((layer, by_features), ("pixels", by_pixels)):
            for place, item in enumerate(nearest.items[query, :SHOWN]):
                right = int(items.labels[item]) == label
                _tile(ax, items.images[item], starts[name] + place, row, right)
    for name, start in starts.items():
        words = name if name == "query" else f"nearest in {name}"
        ax.text(start, -0.15, words, ha="left", va="bottom")
    ax.set_xlim(-2.6, starts["pixels"] + SHOWN)
    ax.set_ylim(len(chosen), -0.5)
    ax.set_aspect("equal")
    ax.axis("off")
    return png(figure, provenance)


def _tile(ax: Any, image: npt.NDArray[np.uint8], left: float, row: int, right: bool | None = None) -> None:
    """One image (S, S, C) in a cell of 1 x 1; a wrong one is framed and crossed at its corner, a right one framed."""
    margin = 0.06
    shown = image[..., 0] if image.shape[-1] == 1 else image
    extent = (left + margin, left + 1 - margin, row + 1 - margin, row + margin)
    ax.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest", aspect="auto")
    if right is None:
        return
    x, y = [left + margin, left + 1 - margin], [row + margin, row + 1 - margin]
    ring = [x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]]
    ax.plot(*ring, color=RIGHT if right else WRONG, linewidth=1.2 if right else 2.6, solid_joinstyle="miter")
    if not right:
        ax.plot(x[1] - 0.13, y[0] + 0.13, "X", color=WRONG, markersize=8, markeredgecolor="white", markeredgewidth=0.8)


def prediction_sheet(subject: Subject, chosen: I64, seen: Seen, provenance: str) -> bytes:
    """Each query beside its BEST most probable classes as bars; the true class in a colour of its own."""
    queries, columns = subject.queries, 2
    rows = -(-len(chosen) // columns)
    shape: dict[str, Any] = {"width_ratios": [1, 2.4] * columns, "squeeze": False}
    figure, axes = panels(rows, 2 * columns, width=9.0, height=0.4 + 1.25 * rows, **shape)
    for ax in axes.flat:
        ax.axis("off")
    probabilities = softmax(seen.scores[chosen])
    for i, query in enumerate(chosen):
        picture, bars = axes[i % rows][2 * (i // rows) : 2 * (i // rows) + 2]
        image, label = queries.images[query], int(queries.labels[query])
        picture.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        picture.set_title(_short(queries.classes[label]), fontsize=9, loc="center")
        best = (-probabilities[i]).argsort(kind="stable")[:BEST]
        shares = probabilities[i][best]
        bars.barh(
            range(len(best)), shares, color=[RIGHT if number == label else "#888888" for number in best], alpha=0.45
        )
        for place, number in enumerate(best):
            words = f"{_short(queries.classes[number])}  {100 * shares[place]:.0f} %"
            bars.text(0.02, place, words, va="center", fontsize=8, color="black")
        bars.set_xlim(0, 1)
        bars.set_ylim(BEST - 0.5, -0.5)
    return png(figure, provenance)


def precision_chart(numbers: dict[str, Any], provenance: str) -> bytes:
    """Precision over how many of the nearest are looked at, with intervals."""
    figure, ax = panels(width=9.0, height=3.6)
    ks = [row["k"] for row in numbers["precision"]]
    for i, (name, space) in enumerate((("features", numbers["layer"]), ("pixels", "pixels"))):
        values = [row[name] for row in numbers["precision"]]
        mean, low, high = ([100 * value[part] for value in values] for part in ("mean", "low", "high"))
        ax.plot(ks, mean, "o-", color=colour(i), label=f"nearest in {space}")
        ax.fill_between(ks, low, high, color=colour(i), alpha=0.2, linewidth=0)
    ax.axhline(100 * numbers["chance"], color=QUIET, linestyle="--", linewidth=1, label="any training images")
    ax.set_xscale("log")
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set_ylim(0, 100)
    ax.set_xlabel("nearest training images looked at")
    ax.set_ylabel("of the query's class, %")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.12))
    return png(figure, provenance)


def _short(name: str) -> str:
    return name if len(name) <= _LONG else name[: _LONG - 1] + "…"


def pictures(
    subject: Subject, seen: Seen, by_features: Nearest, by_pixels: Nearest, numbers: dict[str, Any], provenance: str
) -> Sequence[Picture]:
    """All three, of the first network."""
    chosen, layer = one_of_each(subject.queries.labels, ROWS), numbers["layer"]
    whose = "" if len(numbers["networks"]) == 1 else f" ({subject.label})"
    return [
        Picture(
            "neighbours.png",
            neighbour_sheet(subject, chosen, layer, by_features, by_pixels, provenance),
            f"Held-out images and the {SHOWN} training images nearest to each{whose}, the nearest first. A thin blue "
            f"frame: of the query's class. A thick orange one with a cross: of another class. The queries were drawn, "
            f"one of each class, and not chosen.",
        ),
        Picture(
            "predictions.png",
            prediction_sheet(subject, chosen, seen, provenance),
            f"The same held-out images, and the {BEST} classes that the network holds most probable{whose}. Blue: the "
            "class that the image is of.",
        ),
        Picture(
            "precision.png",
            precision_chart(numbers, provenance),
            "How many of the nearest training images are of the held-out image's class. Bands: intervals of 95 %.",
        ),
    ]


def sentence(numbers: dict[str, Any]) -> str:
    """What was found."""
    told = next(row for row in reversed(numbers["precision"]) if row["k"] <= TOLD)
    features, pixels, more = (told[name] for name in ("features", "pixels", "difference"))
    mean, low, high = (f"{100 * more[part]:.1f}" for part in ("mean", "low", "high"))
    return (
        f"Of the {told['k']} training images nearest to a held-out one, {percent(features)} are of its class where "
        f"distance is measured in {numbers['layer']}, and {percent(pixels)} where it is measured in pixels: {mean} "
        f"points more (interval of 95 %: {low} to {high})."
    )


def tables(numbers: dict[str, Any]) -> list[Table]:
    """Precision, and each network if there are several."""
    rows = [
        [str(row["k"]), *(interval(row[name]) for name in ("features", "pixels", "difference"))]
        for row in numbers["precision"]
    ]
    header = ["nearest", f"{numbers['layer']}, %", "pixels, %", "difference, points"]
    note = (
        f"Of the nearest of {numbers['items']:,} training images, those of the query's class, over "
        f"{numbers['queries']:,} held-out queries; any training images: {percent({'mean': numbers['chance']})}. "
        f"{numbers['layer']} has {numbers['width']:,} numbers, an image {numbers['pixels']:,}. Intervals of 95 % by "
        "the bootstrap over queries."
    )
    made = [Table("Precision", header, rows, note)]
    if len(numbers["networks"]) > 1:
        ks = [f"precision at {row['k']}, %" for row in numbers["precision"]]
        each = [
            [one["network"], f"{100 * one['top1_error']:.1f}", *(f"{100 * value:.1f}" for value in one["precision"])]
            for one in numbers["networks"]
        ]
        made.append(Table("Each network", ["", "top-1 error, %", *ks], each, f"In {numbers['layer']}."))
    return made
