"""The ranges of what a network stores as integers, seen on images that it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from backends.base import Array
from backends.onnx import session
from backends.onnx.graph import INPUT
from backends.onnx.int8 import Range
from backends.starting import fingerprint_of
from data import DataError, Dataset, Statistics, compute_statistics, dataset_statistics, evaluation_batch, open_source
from data.augment import F32
from data.dataset import U8
from data.shards import taken
from export.source import Source, photographs

IMAGES = 512
"""As many training images, evenly spread over all of them, set the ranges. Ranges grow with the logarithm of how many
were seen, if at all; twice as many images widen them by a few percent."""
COMPARED = 10_000
"""At most as many images that were held out tell what integers cost in accuracy."""
MADE_UP = 64
"""Photographs that are made up where there are none."""
BATCH = 16
"""Images at a time: with every layer as an output, a large network's batch takes some 200 MB."""


@dataclass(frozen=True, eq=False)
class Data:
    """Images for a network of integers, and where they are from."""

    pictures: U8
    """(N, S, S, C), as they are stored: what calibrates."""
    origin: str
    """For people."""
    statistics: Statistics | None
    held_out: Dataset | None
    """None where no images but made-up ones are known."""


def spread(count: int, most: int) -> Array:
    """`most` of the numbers 0 .. count - 1 (or all), evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def data_for(source: Source, asked: str | None) -> Data:
    """The images of `asked` (as ``--data`` of training), or those that `source` was trained on; made-up ones where it
    was trained on none. Raises DataError if they are not what it was trained on, or not known.
    """
    stated = source.spec
    named = asked or (source.progress.source if source.progress else None)
    if named is None:
        pictures = photographs(stated, MADE_UP)
        origin = f"{len(pictures)} made-up photographs, because there is no training data"
        return Data(pictures, origin, source.statistics or compute_statistics(pictures), None)
    seed = source.progress.seed if source.progress else 0
    found = open_source(named, storage=stated.data.storage, channels=stated.input.channels, seed=seed)
    if source.classes and found.train.classes != source.classes:
        raise DataError(f"the images must be of the {len(source.classes)} classes of {source.origin}. Received: "
                        f"{len(found.train.classes)} classes in {named}")  # fmt: skip
    if asked is None and source.progress is not None and fingerprint_of(found) != source.progress.fingerprint:
        raise DataError(f"the images of {named} must be those that {source.origin} was trained on, and have changed "
                        f"since (--data {named} takes them as they are)")  # fmt: skip
    statistics = source.statistics or dataset_statistics(found.train)
    chosen = spread(len(found.train), IMAGES)
    pictures = taken(found.train.images, chosen)
    return Data(pictures, f"{len(pictures)} training images of {named}", statistics, found.validation)


def prepared(source: Source, data: Data) -> Iterator[F32]:
    """The pictures as the network sees them in evaluation, (N, C, H, W), a batch at a time."""
    for first in range(0, len(data.pictures), BATCH):
        seen = data.pictures[first : first + BATCH]
        stated = source.spec
        yield evaluation_batch(seen, data=stated.data, input=stated.input, statistics=data.statistics, crops="center")[
            :, 0
        ]


def ranges(model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[F32]) -> dict[str, Range]:
    """The least and the largest number in each of `tensors`, layers' outputs that `model` returns, over images."""
    names = [name for name in tensors if name != INPUT]
    run = session(model)
    found: dict[str, Range] = {}
    for seen in batches:
        for name, value in ((INPUT, seen), *zip(names, run.run(names, {INPUT: seen}), strict=True)):
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return found
