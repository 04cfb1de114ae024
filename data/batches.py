"""Batches in the order of an epoch, made by threads while the consumer works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.augment import F32, evaluation_batch, training_batch
from data.dataset import I64, Dataset
from data.parallel import in_order
from data.statistics import Statistics
from spec import draws
from spec.draws import Purpose
from spec.language import Spec


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N images ready for the network."""

    images: F32
    """(N, C, H, W); for evaluation (N, V, C, H, W), V views of each image."""
    labels: I64
    """(N,)."""
    indices: I64
    """(N,): the images' numbers in the data set, by which dropout masks are drawn too."""
    step: int
    """The batch's number in its epoch, from 0."""


def epoch_order(seed: int, epoch: int, n: int) -> I64:
    """The numbers 0 .. n - 1 in the order of `epoch` (Purpose.SHUFFLE)."""
    return draws.permutation(seed, Purpose.SHUFFLE, n, epoch=epoch)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """floor(n / batch_size), but 1 if n is less: see :func:`training_batches`."""
    return max(1, n // batch_size)


def training_batches(
    dataset: Dataset,
    spec: Spec,
    statistics: Statistics | None,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    start: int = 0,
    workers: int = 1,
) -> Iterator[Batch]:
    """The batches of `epoch` from step `start` on.

    Step k holds places k * batch_size .. (k + 1) * batch_size - 1 of :func:`epoch_order`. The n mod batch_size images
    left over at the end are not seen in this epoch (in another epoch they are others); n < batch_size makes one batch
    of n. A batch depends on (seed, epoch, step, batch_size) alone, and what happens to an image on (seed, epoch, image)
    alone: neither `start` nor `workers` changes a bit.

    workers: threads, each making a batch at a time, at most workers + 1 batches ahead. An exception of theirs is raised
    here; they end when the iterator is exhausted, closed or dropped. Raises ValueError if batch_size or workers is less
    than 1 or `start` is not a step of the epoch or its end, DataError as :func:`data.augment.training_batch`.
    """
    count = len(dataset)
    _require(batch_size, workers, count)
    steps = steps_per_epoch(count, batch_size)
    if not 0 <= start <= steps:
        raise ValueError(f"start must be 0 .. {steps}, the steps of the epoch. Received: {start}")
    order = epoch_order(seed, epoch, count)

    def make(step: int) -> Batch:
        indices = order[step * batch_size : (step + 1) * batch_size]
        images = training_batch(
            dataset.images, indices, data=spec.data, input=spec.input, statistics=statistics, seed=seed, epoch=epoch
        )
        return Batch(images, dataset.labels[indices], indices, step)

    return in_order(make, range(start, steps), workers=workers, ahead=workers + 1)


def evaluation_batches(
    dataset: Dataset,
    spec: Spec,
    statistics: Statistics | None,
    *,
    batch_size: int,
    crops: str | None = None,
    workers: int = 1,
) -> Iterator[Batch]:
    """All images of `dataset` in their order, in batches of `batch_size`, the last one perhaps smaller.

    crops: ``center`` or ``ten``; `spec.evaluation.crops` unless stated. Threads and errors as :func:`training_batches`.
    """
    count = len(dataset)
    _require(batch_size, workers, count)
    chosen = crops or spec.evaluation.crops

    def make(step: int) -> Batch:
        indices = np.arange(step * batch_size, min((step + 1) * batch_size, count))
        images = dataset.images[indices[0] : indices[-1] + 1]
        views = evaluation_batch(images, data=spec.data, input=spec.input, statistics=statistics, crops=chosen)
        return Batch(views, dataset.labels[indices], indices, step)

    return in_order(make, range(-(-count // batch_size)), workers=workers, ahead=workers + 1)


def _require(batch_size: int, workers: int, count: int) -> None:
    for name, value in (("batch_size", batch_size), ("workers", workers), ("the number of images", count)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {value}")
