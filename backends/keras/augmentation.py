"""The draws of :mod:`data.augment` done to stored bytes on a device: for a whole batch at once, with the same bits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from keras import ops

from data import Draws, Statistics
from data.augment import added, constants
from data.dataset import U8
from spec.language import Data, Input

_MOST_PLACES = 2**31
"""Places are counted in int32, the only integers that every framework under Keras has."""


def augmented(pixels: U8, drawn: Draws, data: Data, input: Input, statistics: Statistics | None) -> Any:
    """`drawn` done to the images `pixels`, uint8 (N, S, S, C): float32 (N, C, H, W) on the current device.

    The places are found in integers. Each step of the arithmetic is an operation of its own, never compiled together
    with the next, because XLA would contract a product and a sum and round once where the definition rounds twice.
    Raises DataError without the statistics that the mean needs, ValueError for 2**31 pixels or more.
    """
    n, side, _, channels = pixels.shape
    if n * side * side >= _MOST_PLACES:
        raise ValueError(f"a batch must have fewer than {_MOST_PLACES:,} pixels. Received: {n * side * side:,}")
    columns = np.arange(input.width)
    columns = drawn.cols[:, None] + np.where(drawn.flip[:, None], input.width - 1 - columns, columns)
    rows = drawn.rows[:, None] + np.arange(input.height)
    within = _integers(rows)[:, :, None] * side + _integers(columns)[:, None, :]  # (N, H, W)
    first = _integers(np.arange(n) * side * side)[:, None, None]
    x = ops.cast(_taken(ops.reshape(ops.convert_to_tensor(pixels), (-1, channels)), within + first), "float32")
    if data.channel_order == "bgr":
        x = ops.flip(x, axis=-1)
    x = ops.transpose(x, (0, 3, 1, 2))
    mean, scale, factor, moves = _constants(data, input, statistics, drawn.active)
    if scale is not None:
        x = ops.multiply(x, scale)
    if mean is not None:
        x = ops.subtract(x, ops.transpose(_taken(mean, within), (0, 3, 1, 2)) if moves else mean)
    if (noise := added(drawn, data)) is not None:
        x = ops.add(x, noise[:, :, None, None])
    return x if factor is None else ops.multiply(x, factor)


def _taken(places: Any, at: Any) -> Any:
    """(N, H, W, C) of places (P, C) by their numbers (N, H, W)."""
    return ops.take(places, at, axis=0)


def _integers(array: np.ndarray[Any, Any]) -> Any:
    return ops.convert_to_tensor(array.astype(np.int32))


@lru_cache(maxsize=4)
def _constants(data: Data, input: Input, statistics: Statistics | None, noisy: bool) -> tuple[Any, Any, Any, bool]:
    """Mean, scale and factor as arrays; a mean image that moves as places (S * S, C)."""
    known = constants(data, input, statistics, noisy=noisy)
    mean = known.mean
    if mean is not None and known.moves:
        mean = np.ascontiguousarray(mean.reshape(len(mean), -1).T)
    return mean, known.scale, known.factor, known.moves
