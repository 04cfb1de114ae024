"""Errors, by protocol and by class, and which classes were taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.evaluation.intervals import Interval, Paired, paired, wilson
from backends.evaluation.scoring import TOGETHER, Outcome
from data.dataset import I64

BEST = {"top1": 1, "top5": 5}
"""The errors that are reported: whether the label is among so many best scores."""


@dataclass(frozen=True)
class Error:
    """An error among images, with its interval; a fraction."""

    wrong: int
    images: int
    error: float
    interval: Interval


def error_of(outcome: Outcome, best: int, of: I64 | slice = slice(None)) -> Error:
    """The top-`best` error of `outcome`, over the images `of`."""
    wrong = outcome.wrong(best)[of]
    return Error(int(wrong.sum()), len(wrong), float(wrong.mean()), wilson(int(wrong.sum()), len(wrong)))


@dataclass(frozen=True)
class Comparison:
    """Two outcomes on the same images: by how much the error of the first is the larger."""

    first: str
    second: str
    top1: Paired
    top5: Paired


def comparisons(outcomes: Sequence[Outcome]) -> tuple[Comparison, ...]:
    """The last outcome against its central crop alone, and against each model alone."""
    last = outcomes[-1]
    found = [
        (first, "the central crop", "ten crops")
        for first in outcomes
        if first.who == last.who and first.crops != last.crops
    ]
    found += [(first, first.who, TOGETHER) for first in outcomes if first.who != last.who and first.crops == last.crops]
    return tuple(
        Comparison(name, other, *(paired(first.wrong(best), last.wrong(best)) for best in BEST.values()))
        for first, name, other in found
    )


@dataclass(frozen=True)
class ClassRow:
    """One class: its errors, and what its images are taken for most often."""

    number: int
    top1: Error
    top5: Error
    mostly: int | None
    """The most frequent wrong answer; None if there is none."""


def by_class(outcome: Outcome, labels: I64) -> tuple[ClassRow, ...]:
    """A row for each class that has images, in the order of the classes."""
    rows = []
    for number in np.unique(labels):
        of = np.flatnonzero(labels == number)
        answers = outcome.answers[of]
        others = np.bincount(answers[answers != number])
        mostly = int(others.argmax()) if others.size else None
        rows.append(ClassRow(int(number), error_of(outcome, 1, of), error_of(outcome, 5, of), mostly))
    return tuple(rows)


@dataclass(frozen=True)
class Confusion:
    """How often images of class `label` are taken for class `answer`."""

    label: int
    answer: int
    times: int
    share: float
    """Of the images of the class."""


def confusions(outcome: Outcome, labels: I64, most: int) -> tuple[Confusion, ...]:
    """The `most` frequent confusions, of equals those of the smallest classes first."""
    wrong = outcome.wrong(1)
    pairs, times = np.unique(np.stack([labels[wrong], outcome.answers[wrong]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-times, kind="stable")[:most]
    sizes = np.bincount(labels)
    return tuple(
        Confusion(int(a), int(b), int(n), float(n / sizes[a]))
        for (a, b), n in zip(pairs[order], times[order], strict=True)
    )


def mistakes(outcome: Outcome) -> I64:
    """The images with a wrong answer, the most confident first."""
    wrong = np.flatnonzero(outcome.wrong(1))
    return wrong[np.argsort(-outcome.confidences[wrong], kind="stable")]
