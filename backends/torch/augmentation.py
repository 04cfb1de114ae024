"""The draws of :mod:`data.augment` done to stored bytes on a device: for a whole batch at once, with the same bits."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from data import Draws, Statistics
from data.augment import F32, added, constants
from spec.language import Data, Input


def augmented(pixels: Tensor, drawn: Draws, data: Data, input: Input, statistics: Statistics | None) -> Tensor:
    """`drawn` done to the images `pixels`, uint8 (N, S, S, C): float32 (N, C, H, W) on the same device.

    The places are found in integers, and each step of the arithmetic rounds once, as in the definition: eager PyTorch
    does not contract a product and a sum. Raises DataError without the statistics that the mean needs.
    """
    place = pixels.device
    mean, scale, factor, moves = _constants(data, input, statistics, drawn.active, place)
    rows = _to(drawn.rows, place)[:, None] + torch.arange(input.height, device=place)
    columns = torch.arange(input.width, device=place)
    columns = torch.where(_to(drawn.flip, place)[:, None], input.width - 1 - columns, columns)
    columns = _to(drawn.cols, place)[:, None] + columns
    at = rows[:, :, None], columns[:, None, :]
    crops = pixels[torch.arange(len(pixels), device=place)[:, None, None], *at]
    if data.channel_order == "bgr":
        crops = crops.flip(3)
    x = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if scale is not None:
        x *= scale
    if mean is not None:
        x -= mean[at].permute(0, 3, 1, 2) if moves else mean
    if (noise := added(drawn, data)) is not None:
        x += _to(noise, place)[:, :, None, None]
    if factor is not None:
        x *= factor
    return x


@lru_cache(maxsize=4)
def _constants(
    data: Data, input: Input, statistics: Statistics | None, noisy: bool, place: torch.device
) -> tuple[Tensor | None, Tensor | None, Tensor | None, bool]:
    """Mean, scale and factor on the device; a mean image that moves as (S, S, C)."""
    known = constants(data, input, statistics, noisy=noisy)
    mean = known.mean.transpose(1, 2, 0) if known.mean is not None and known.moves else known.mean
    scale = None if known.scale is None else np.array(known.scale)
    found = [None if array is None else _to(array, place) for array in (mean, scale, known.factor)]
    return found[0], found[1], found[2], known.moves


def _to(array: F32 | np.ndarray[tuple[int, ...], np.dtype[np.generic]], place: torch.device) -> Tensor:
    return torch.tensor(np.array(array, order="C"), device=place)
