"""Batches in the order of an epoch, made by threads while the consumer works.

Images are read where they lie, a batch at a time, so that memory is needed for `workers` + 2 batches and the order of
an epoch (8 bytes an image), however large the data is. The order is drawn anew from all images in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

import numpy as np
import numpy.typing as npt

from data.augment import Draws, Known, apply_training, evaluation_batch, training_draws
from data.dataset import I64, Dataset, Images
from data.parallel import in_order
from data.statistics import Statistics
from spec import draws
from spec.draws import Purpose
from spec.language import Spec


class Apply(Protocol):
    """:func:`data.augment.apply_training`, or what does the same on a device."""

    def __call__(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N images ready for the network."""

    images: Any
    """float32 (N, C, H, W), an array or what :class:`Apply` made; for evaluation (N, V, C, H, W), V views of each."""
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
    rank: int = 0,
    ranks: int = 1,
    apply: Apply = apply_training,
) -> Iterator[Batch]:
    """The batches of `epoch` from step `start` on.

    Step k holds places k * batch_size .. (k + 1) * batch_size - 1 of :func:`epoch_order`. The n mod batch_size images
    left over at the end are not seen in this epoch (in another epoch they are others); n < batch_size makes one batch
    of n. A batch depends on (seed, epoch, step, batch_size) alone, and what happens to an image on (seed, epoch, image)
    alone: neither `start` nor `workers` changes a bit.

    rank, ranks: of every batch, only the part for the process `rank` of `ranks`, see :func:`share`; the parts of all
    are the batch. apply: does the draws to the images, in the threads; what it returns is the batch's `images`. A
    backend's own does it on its device.

    workers: threads, each making a batch at a time, at most workers + 1 batches ahead. An exception of theirs is raised
    here; they end when the iterator is exhausted, closed or dropped. Raises ValueError if batch_size or workers is less
    than 1 or `start` is not a step of the epoch or its end, or if a rank would get no image; DataError as
    :func:`data.augment.training_draws` and :func:`data.augment.apply_training`.
    """
    count = len(dataset)
    _require(batch_size, workers, count)
    smallest = min(batch_size, count)
    if not 0 <= rank < ranks <= smallest:
        raise ValueError(f"rank must be 0 .. ranks - 1, and ranks at most {smallest}, the images of a batch. "
                         f"Received: rank {rank} of {ranks}")  # fmt: skip
    steps = steps_per_epoch(count, batch_size)
    if not 0 <= start <= steps:
        raise ValueError(f"start must be 0 .. {steps}, the steps of the epoch. Received: {start}")
    order = epoch_order(seed, epoch, count)

    def make(step: int) -> Batch:
        whole = order[step * batch_size : (step + 1) * batch_size]
        indices = whole[share(len(whole), rank, ranks)]
        known: Known = {"data": spec.data, "input": spec.input, "statistics": statistics}
        drawn = training_draws(indices, **known, seed=seed, epoch=epoch)
        images = apply(dataset.images, indices, drawn, **known)
        return Batch(images, dataset.labels[indices], indices, step)

    return in_order(make, range(start, steps), workers=workers, ahead=workers + 1)


def share(n: int, rank: int, ranks: int) -> slice:
    """The part of `n` things in a row that is `rank`'s. Those of all ranks cover them once, and differ by 1 at most."""
    return slice(n * rank // ranks, n * (rank + 1) // ranks)


def evaluation_batches(
    dataset: Dataset,
    spec: Spec,
    statistics: Statistics | None,
    *,
    batch_size: int,
    crops: str | None = None,
    workers: int = 1,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """All images of `dataset` in their order, in batches of `batch_size`, the last one perhaps smaller.

    rank, ranks: only the images for the process `rank` of `ranks`, see :func:`share`, which may be none. crops:
    ``center`` or ``ten``; `spec.evaluation.crops` unless stated. Threads and errors as :func:`training_batches`.
    """
    count = len(dataset)
    _require(batch_size, workers, count)
    if not 0 <= rank < ranks:
        raise ValueError(f"rank must be 0 .. ranks - 1. Received: rank {rank} of {ranks}")
    chosen, own = crops or spec.evaluation.crops, share(count, rank, ranks)

    def make(first: int) -> Batch:
        indices = np.arange(first, min(first + batch_size, own.stop))
        images = dataset.images[indices[0] : indices[-1] + 1]
        views = evaluation_batch(images, data=spec.data, input=spec.input, statistics=statistics, crops=chosen)
        return Batch(views, dataset.labels[indices], indices, (first - own.start) // batch_size)

    return in_order(make, range(own.start, own.stop, batch_size), workers=workers, ahead=workers + 1)


def _require(batch_size: int, workers: int, count: int) -> None:
    for name, value in (("batch_size", batch_size), ("workers", workers), ("the number of images", count)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {value}")
