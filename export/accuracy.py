"""What integers cost in accuracy: two models on the same images, which neither was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from backends.base import Array, ranks
from backends.evaluation.intervals import Paired, paired
from backends.onnx import session
from backends.onnx.graph import INPUT, LOGITS
from data import Dataset, evaluation_batch
from data.shards import taken
from export.source import Source

BATCH = 64
"""Images at a time."""


@dataclass(frozen=True)
class Cost:
    """Top-1 errors on the same images, central crop; fractions."""

    float32: float
    int8: float
    paired: Paired
    """int8 first: a positive difference is what integers cost."""

    def line(self) -> str:
        """For people."""
        low, high = self.paired.interval
        return (
            f"top-1 {1 - self.float32:.2%} in float32, {1 - self.int8:.2%} in int8 on {self.paired.images} images that "
            f"were held out: {100 * self.paired.difference:+.2f} points lost (95 %: {100 * low:+.2f} to "
            f"{100 * high:+.2f}, paired)"
        )

    def json(self) -> str:
        """For the file's metadata."""
        return json.dumps(
            {
                "images": self.paired.images,
                "top1_error_float32": self.float32,
                "top1_error_int8": self.int8,
                "difference": self.paired.difference,
                "interval_95": self.paired.interval,
                "only_int8_wrong": self.paired.first_only,
                "only_float32_wrong": self.paired.second_only,
            }
        )


def cost(
    wide: onnx.ModelProto,
    whole: onnx.ModelProto,
    source: Source,
    images: Dataset,
    chosen: Array,
    progress: Callable[[int], None] = lambda done: None,
) -> Cost:
    """Run both networks of `source`, of ``input`` and ``logits``, on the images with the numbers `chosen`.

    progress: called with how many are done.
    """
    stated = source.spec
    runs = [session(model) for model in (wide, whole)]
    wrong: list[list[Array]] = [[], []]
    for first in range(0, len(chosen), BATCH):
        numbers = chosen[first : first + BATCH]
        pictures = taken(images.images, numbers)
        seen = evaluation_batch(pictures, data=stated.data, input=stated.input, statistics=source.statistics)[:, 0]
        for run, kept in zip(runs, wrong, strict=True):
            (logits,) = run.run([LOGITS], {INPUT: seen})
            kept.append(ranks(logits, images.labels[numbers]) > 0)
        progress(first + len(numbers))
    float32, int8 = map(np.concatenate, wrong)
    return Cost(float(float32.mean()), float(int8.mean()), paired(int8, float32))
