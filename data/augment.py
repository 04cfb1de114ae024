"""From stored bytes to network input: the definition, in NumPy.

    x = (scale * pixel - mean + noise) / (divide_by * std)

Draws and arithmetic are apart: :func:`training_draws` says what happens to each image, as a pure function of (seed,
epoch, image), and :func:`apply_training` does it. Another backend may do the second on its device; in float32, in this
order:

1. p = scale * pixel, the byte exact, `scale` rounded to float32;
2. p - mean, `mean` computed in float64 in units of the scaled pixel and rounded to float32;
3. + noise, likewise rounded to float32 (only while noise is on);
4. * factor, 1 / (divide_by * std) computed in float64 and rounded to float32 (`divide_by` only while noise is on).

Every step rounds once; a step with nothing to do changes no bit. Channels are red, green, blue in all fields and
statistics; `channel_order: bgr` reverses them in the result. Places: R = S - H and C = S - W are the last offsets of an
(H, W) crop of the (S, S) image, its centre is (R // 2, C // 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from data.dataset import I64, U8, Images
from data.errors import DataError
from data.shards import Shards, taken
from data.statistics import F64, Statistics
from spec import draws
from spec.draws import Purpose
from spec.language import Data, Input

F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

_BLOCK = 1 << 16
"""Values worked on at a time, so that they stay in cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What happens to each of N images in one epoch."""

    rows: I64
    """(N,): the first row of the crop."""
    cols: I64
    """(N,): its first column."""
    flip: Bool
    """(N,): whether it is then reflected left to right."""
    noise: F64
    """(N, C): what is added to every pixel of a channel, in units of the scaled pixel; zeros while noise is off."""
    active: bool
    """Whether noise is on in this epoch: only then is it added, and only then `divide_by` divides."""


def training_draws(
    indices: npt.ArrayLike, *, data: Data, input: Input, statistics: Statistics | None, seed: int, epoch: int
) -> Draws:
    """The draws of the images `indices` (N,) in `epoch`.

    Crop: words 0 and 1 of item ``index // crop.shared_by`` of Purpose.CROP, as integers below R + 1 and C + 1. Flip:
    word 0 of item ``index // flip.shared_by`` of Purpose.FLIP, a chance of `probability`. Noise: a word per channel of
    item ``index`` of Purpose.COLOR, standard normal z, give the sum over j of V[:, j] * (scale * sigma * s_j) * z_j,
    added up from the largest component on, where s_j is sqrt(eigenvalue j), or for ``scale: eigenvalue`` the eigenvalue
    on [0, 1] pixels brought back to bytes, (eigenvalue j / 255**2) * 255 = eigenvalue j / 255.

    Raises DataError if the input is larger than the stored image, or if noise is asked for without statistics.
    """
    items = np.asarray(indices, np.int64)
    rest = _rest(data, input)
    if data.crop.kind == "random":
        words = draws.words(seed, Purpose.CROP, 2, items=items // data.crop.shared_by, epoch=epoch)
        rows, cols = (draws.integers(words[:, axis], rest[axis] + 1) for axis in (0, 1))
    else:
        rows, cols = (np.full(items.shape, place, np.int64) for place in _center(data, input))
    words = draws.words(seed, Purpose.FLIP, 1, items=items // data.flip.shared_by, epoch=epoch)
    flip = draws.chance(words[:, 0], data.flip.probability)
    noise = np.zeros((len(items), input.channels))
    if active := _noise_is_on(data, epoch):
        assert data.color_noise is not None
        known = _known(statistics, "colour noise")
        z = draws.normal(draws.words(seed, Purpose.COLOR, input.channels, items=items, epoch=epoch))
        spread = {"stddev": np.sqrt(known.eigenvalues), "eigenvalue": known.eigenvalues / 255.0}[data.color_noise.scale]
        for j, amplitude in enumerate(data.scale * data.color_noise.sigma * spread):
            noise += known.eigenvectors[:, j] * amplitude * z[:, j, None]
    return Draws(rows, cols, flip, noise, active)


class Known(TypedDict):
    """What stays the same for every image of a run: the keyword arguments of :func:`apply_training`."""

    data: Data
    input: Input
    statistics: Statistics | None
    """Of the training images; None where `data` needs none."""


@dataclass(frozen=True, slots=True, eq=False)
class Constants:
    """What the arithmetic of an epoch needs beside pixels and draws; channels in the order of the result."""

    scale: np.float32 | None
    """None for 1, as with the others: then there is nothing to do."""
    mean: F32 | None
    """(C, 1, 1); or a mean image, (C, H, W) as cut for every crop alike, or (C, S, S) if it moves."""
    moves: bool
    """Whether the mean is cut at the crop's place, and reflected with it."""
    factor: F32 | None
    """(C, 1, 1) or (1, 1, 1)."""


def constants(data: Data, input: Input, statistics: Statistics | None, *, noisy: bool) -> Constants:
    """The constants of epochs with noise, or of those without and of evaluation. Raises DataError without the
    statistics that the mean needs."""
    mean, moves = _mean(data, statistics), _moves(data)
    if mean is not None:
        mean = (mean if moves else _cut(mean, *_center(data, input), input))[_order(data)]
    return Constants(None if data.scale == 1.0 else np.float32(data.scale), mean, moves, _factor(data, noisy))


def added(drawn: Draws, data: Data) -> F32 | None:
    """The noise of step 3, (N, C) in the order of the result; None while it is off."""
    return drawn.noise.astype(np.float32)[:, _order(data)] if drawn.active else None


def apply_training(
    images: Images, indices: npt.ArrayLike, drawn: Draws, *, data: Data, input: Input, statistics: Statistics | None
) -> F32:
    """`drawn` done to ``images[indices]``.

    images: uint8 (M, S, S, C), in memory or in shards. indices: (N,). Returns float32 (N, C, H, W).
    Raises DataError if images, data, input and statistics do not belong together.
    """
    _require(images, data, input, statistics)
    items = np.asarray(indices, np.int64)
    if isinstance(images, Shards):
        images, items = taken(images, items), np.arange(len(items))
    known, order = constants(data, input, statistics, noisy=drawn.active), _order(data)
    windows = _windows(images, input)
    mean_windows = None
    if known.mean is not None and known.moves:
        mean_windows = _windows(known.mean.transpose(1, 2, 0)[None], input)[0]
    noise = added(drawn, data)
    out = np.empty((len(items), input.channels, input.height, input.width), np.float32)
    step = max(1, _BLOCK // out[:1].size) if len(out) else 1
    for start in range(0, len(items), step):
        part = slice(start, start + step)
        places = drawn.rows[part], drawn.cols[part]
        pixels = _flipped(windows[(items[part], *places)][:, order], drawn.flip[part])
        mean = known.mean if mean_windows is None else _flipped(mean_windows[places], drawn.flip[part])
        _arithmetic(pixels, known, mean, None if noise is None else noise[part, :, None, None], out[part])
    return out


def training_batch(
    images: Images,
    indices: npt.ArrayLike,
    *,
    data: Data,
    input: Input,
    statistics: Statistics | None,
    seed: int,
    epoch: int,
) -> F32:
    """The network's input for ``images[indices]`` in `epoch` of a run with `seed`: draws, then their application."""
    drawn = training_draws(indices, data=data, input=input, statistics=statistics, seed=seed, epoch=epoch)
    return apply_training(images, indices, drawn, data=data, input=input, statistics=statistics)


def evaluation_views(data: Data, input: Input, crops: str) -> tuple[tuple[int, int, bool], ...]:
    """(row, column, flip) of every view.

    center: the centre, once. ten: top left, top right, centre, bottom left, bottom right, then the five reflected, as
    the 2012 source (computerhistory/AlexNet-Source-Code@2f8b81f, convdata_jpeg.py, start_positions).
    """
    rows, cols = _rest(data, input)
    center = _center(data, input)
    if crops == "center":
        return ((*center, False),)
    if crops != "ten":
        raise ValueError(f"crops must be 'center' or 'ten'. Received: {crops!r}")
    places = ((0, 0), (0, cols), center, (rows, 0), (rows, cols))
    return tuple((*place, flip) for flip in (False, True) for place in places)


def evaluation_batch(
    images: U8, *, data: Data, input: Input, statistics: Statistics | None, crops: str = "center"
) -> F32:
    """The views of `images` for evaluation: no noise, no division by `divide_by`.

    images: uint8 (N, S, S, C), the images themselves. crops: ``center`` (V = 1) or ``ten`` (V = 10), see
    :func:`evaluation_views`. Returns float32 (N, V, C, H, W). Raises DataError as :func:`apply_training`.
    """
    _require(images, data, input, statistics)
    views = evaluation_views(data, input, crops)
    known, order = constants(data, input, statistics, noisy=False), _order(data)
    out = np.empty((len(images), len(views), input.channels, input.height, input.width), np.float32)
    step = max(1, _BLOCK // out[:1, 0].size) if len(out) else 1
    for v, (row, col, flip) in enumerate(views):
        mirror = slice(None, None, -1 if flip else 1)
        mean = known.mean
        if mean is not None and known.moves:
            mean = _cut(mean, row, col, input)[:, :, mirror]
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            crop = images[part, row : row + input.height, col : col + input.width]
            _arithmetic(crop.transpose(0, 3, 1, 2)[:, order, :, mirror], known, mean, None, out[part, v])
    return out


# --- pieces -----------------------------------------------------------------------------------------------------------


def _arithmetic(pixels: U8, known: Constants, mean: F32 | None, noise: F32 | None, out: F32) -> None:
    """Steps 1 to 4 of the module's docstring, into `out` (n, C, H, W)."""
    out[...] = pixels
    if known.scale is not None:
        out *= known.scale
    if mean is not None:
        out -= mean
    if noise is not None:
        out += noise
    if known.factor is not None:
        out *= known.factor


def _mean(data: Data, statistics: Statistics | None) -> F32 | None:
    """What is subtracted, in units of the scaled pixel: (C, S, S) for a mean image, (C, 1, 1), or None for nothing."""
    if data.mean.kind == "none":
        return None
    if data.mean.kind == "values":
        return np.array(data.mean.values, np.float64).astype(np.float32)[:, None, None]
    known = _known(statistics, f"mean: {data.mean.kind}")
    if data.mean.kind == "image":
        return (data.scale * known.mean_image).astype(np.float32)
    return (data.scale * known.channel_mean).astype(np.float32)[:, None, None]


def _factor(data: Data, noisy: bool) -> F32 | None:
    """1 / (divide_by * std): (C, 1, 1) or (1, 1, 1), in the order of the result; None for 1."""
    divide_by = data.color_noise.divide_by if noisy and data.color_noise is not None else 1.0
    if data.std is None and divide_by == 1.0:
        return None
    std = np.array((1.0,) if data.std is None else data.std)
    return (1.0 / (divide_by * std)).astype(np.float32)[_order(data), None, None]


def _noise_is_on(data: Data, epoch: int) -> bool:
    noise = data.color_noise
    return noise is not None and (noise.until_epoch is None or epoch < noise.until_epoch)


def _moves(data: Data) -> bool:
    """Whether the mean is cut at the crop's place, and reflected with it."""
    return data.mean.kind == "image" and data.mean.align == "crop"


def _order(data: Data) -> slice:
    return slice(None, None, -1 if data.channel_order == "bgr" else 1)


def _rest(data: Data, input: Input) -> tuple[int, int]:
    """The last row and the last column at which a crop can begin."""
    rest = data.storage.size - input.height, data.storage.size - input.width
    if min(rest) < 0:
        raise DataError(f"the input must fit into the stored image of {data.storage.size} x {data.storage.size}. "
                        f"Received: an input of {input.height} x {input.width}")  # fmt: skip
    return rest


def _center(data: Data, input: Input) -> tuple[int, int]:
    rows, cols = _rest(data, input)
    return rows // 2, cols // 2


def _cut(mean: F32, row: int, col: int, input: Input) -> F32:
    """The (H, W) part of a mean image; a mean per channel as it is."""
    return mean if mean.shape[1:] == (1, 1) else mean[:, row : row + input.height, col : col + input.width]


def _windows(images: npt.NDArray[Any], input: Input) -> npt.NDArray[Any]:
    """Every (H, W) crop of images (M, S, S, C) without a copy: (M, R + 1, C + 1, C, H, W)."""
    return sliding_window_view(images, (input.height, input.width), axis=(1, 2))


def _flipped(maps: npt.NDArray[Any], flip: Bool) -> npt.NDArray[Any]:
    """`maps` (n, C, H, W) with those of `flip` (n,) reflected left to right, in place."""
    maps[flip] = maps[flip][..., ::-1]
    return maps


def _known(statistics: Statistics | None, what: str) -> Statistics:
    if statistics is None:
        raise DataError(f"{what} needs the statistics of the training images. Received: none")
    return statistics


def _require(images: Images, data: Data, input: Input, statistics: Statistics | None) -> None:
    size, channels = data.storage.size, input.channels
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, channels):
        received = f"{images.dtype} {images.shape}"
        raise DataError(f"images must be uint8 (N, {size}, {size}, {channels}). Received: {received}")
    if statistics is not None and statistics.mean_image.shape != (channels, size, size):
        raise DataError(f"statistics must be those of images of {channels} x {size} x {size}. "
                        f"Received: {' x '.join(map(str, statistics.mean_image.shape))}")  # fmt: skip
    for name, values in (("mean.values", data.mean.values), ("std", data.std)):
        if values is not None and len(values) != channels:
            raise DataError(f"data.{name} must have one value for each of {channels} channels. Received: {len(values)}")
