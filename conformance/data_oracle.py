"""What images must become on their way to the network and back: the oracle of ``data`` and of evaluation.

Written image by image in float64, from spec/README.md and the formulas of ``data/augment.py`` and ``data/images.py``,
without their code. Of ``spec`` only the words of the generator are taken, which have published vectors of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from backends.base import Array
from conformance.oracle import Expected
from spec import Spec, draws
from spec.draws import Purpose

RESIZED = 1.0 + 1 / 64
"""Half a level for the byte that is stored, half for the one between width and height, and Pillow's short weights."""
EXACT_SUMS = 1e-12
"""Of float64 sums over a few thousand pixels, relative to the largest variance."""


@dataclass(frozen=True)
class Known:
    """Statistics of training images in bytes: mean image (C, S, S), covariance (C, C), its components."""

    mean_image: Array
    channel_mean: Array
    covariance: Array
    eigenvalues: Array
    eigenvectors: Array

    def arrays(self) -> dict[str, Array]:
        """By the names under which checkpoints record them."""
        return dict(vars(self))


# --- what is kept of a photograph -----------------------------------------------------------------------------------


def _weights(side: int, resized: int, place: int) -> Array:
    """How much every one of `side` pixels is of pixel `place` of `resized`: a triangle as wide as the reduction."""
    scale = side / resized
    distance = (np.arange(side) + 0.5 - (place + 0.5) * scale) / max(scale, 1.0)
    triangle = np.maximum(0.0, 1.0 - np.abs(distance))
    weights: Array = triangle / triangle.sum()
    return weights


def stored_image(photograph: Array, spec: Spec) -> Expected:
    """A photograph (height, width, C) as it is stored: (S, S, C), within RESIZED of a level."""
    size, sides = spec.data.storage.size, photograph.shape[:2]
    short = min(sides)
    filters = []
    for side in sides:
        resized = size if spec.data.storage.fit == "stretch" else math.floor(size * side / short + 0.5)
        first = (resized - size) // 2
        filters.append(np.stack([_weights(side, resized, first + place) for place in range(size)]))
    rows, columns = filters
    planes = np.moveaxis(photograph.astype(np.float64), 2, 0)
    value = np.stack([rows @ plane @ columns.T for plane in planes], axis=2)
    return Expected(value, np.full((1, 1, 1), RESIZED))


# --- what is known of the training images ---------------------------------------------------------------------------


def statistics(images: Array) -> Known:
    """Of uint8 (M, S, S, C)."""
    pixels = images.reshape(-1, images.shape[-1]).astype(np.float64)
    mean = pixels.sum(axis=0) / len(pixels)
    centred = pixels - mean
    covariance = centred.T @ centred / len(pixels)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-values, kind="stable")
    columns = []
    for column in vectors[:, order].T:
        columns.append(column if column[np.argmax(np.abs(column))] > 0 else -column)
    mean_image = np.add.reduce(images.astype(np.int64)).transpose(2, 0, 1) / len(images)
    return Known(mean_image, mean, covariance, np.maximum(values[order], 0.0), np.stack(columns, axis=1))


def known_expected(known: Known) -> dict[str, Expected]:
    """The statistics with what summing in another order may change; vectors turn by that over the gap of values."""
    loss = EXACT_SUMS * float(known.eigenvalues.max())
    gaps = np.abs(np.subtract.outer(known.eigenvalues, known.eigenvalues)) + np.diag(
        np.full(len(known.eigenvalues), np.inf)
    )
    turns = np.minimum(loss * len(gaps) / np.maximum(gaps.min(axis=0), loss), 2.0)
    bounds = {
        "mean_image": np.zeros((1, 1, 1)),
        "channel_mean": np.full(1, EXACT_SUMS * 255),
        "covariance": np.full((1, 1), loss),
        "eigenvalues": np.full(1, loss * len(gaps)),
        "eigenvectors": turns[None, :],
    }
    return {name: Expected(value, bounds[name]) for name, value in known.arrays().items()}


# --- what the network sees ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Happening:
    """What happens to one image: where it is cut, whether it is reflected, what is added to each channel."""

    row: int
    column: int
    flip: bool
    noise: Array | None = None
    """(C,) in units of the scaled pixel, red first; None while noise is off."""


def _rest(spec: Spec) -> tuple[int, int]:
    return spec.data.storage.size - spec.input.height, spec.data.storage.size - spec.input.width


def _word(seed: int, purpose: Purpose, count: int, item: int, epoch: int) -> Array:
    words: Array = draws.words(seed, purpose, count, items=np.array([item]), epoch=epoch)[0]
    return words


def in_training(spec: Spec, known: Known, index: int, seed: int, epoch: int) -> Happening:
    """What happens to image number `index` in `epoch` of training from `seed`."""
    data, (rows, columns) = spec.data, _rest(spec)
    row, column = rows // 2, columns // 2
    if data.crop.kind == "random":
        down, across = _word(seed, Purpose.CROP, 2, index // data.crop.shared_by, epoch)
        row, column = int(draws.integers(down, rows + 1)), int(draws.integers(across, columns + 1))
    (turn,) = _word(seed, Purpose.FLIP, 1, index // data.flip.shared_by, epoch)
    flip, noise = bool(draws.chance(turn, data.flip.probability)), None
    rule = data.color_noise
    if rule is not None and (rule.until_epoch is None or epoch < rule.until_epoch):
        z = draws.normal(_word(seed, Purpose.COLOR, spec.input.channels, index, epoch))
        noise = np.zeros(spec.input.channels)
        for component, value in enumerate(known.eigenvalues):
            length = math.sqrt(value) if rule.scale == "stddev" else value / 255
            noise += known.eigenvectors[:, component] * (data.scale * rule.sigma * length) * z[component]
    return Happening(row, column, flip, noise)


def in_evaluation(spec: Spec, crops: str) -> list[Happening]:
    """The views of every image, in their order."""
    rows, columns = _rest(spec)
    center = rows // 2, columns // 2
    if crops == "center":
        return [Happening(*center, False)]
    places = [(0, 0), (0, columns), center, (rows, 0), (rows, columns)]
    return [Happening(*place, flip) for flip in (False, True) for place in places]


def _float32(x: Array | float) -> Array:
    """Rounded once to float32. A sum or product of two float32 numbers is exact in float64, or innocuously rounded."""
    rounded: Array = np.asarray(x, np.float64).astype(np.float32).astype(np.float64)
    return rounded


def seen(image: Array, spec: Spec, known: Known, happening: Happening) -> Expected:
    """The network's input (C, H, W) of a stored image (S, S, C): equal bits where all numbers are whole, and otherwise
    within one unit in the last place of the largest number on the way."""
    data, size = spec.data, spec.input
    down = slice(happening.row, happening.row + size.height)
    across = slice(happening.column, happening.column + size.width)
    planes, units = [], []
    for channel in range(size.channels):
        if data.channel_order == "bgr":
            channel = size.channels - 1 - channel
        x = _float32(_float32(data.scale) * _turned(image[down, across, channel].astype(np.float64), happening))
        steps = [x]
        if data.mean.kind != "none":
            mean = _float32(_mean(spec, known, channel, happening))
            x = _float32(x - mean)
            steps += [np.broadcast_to(mean, x.shape), x]
        divide_by = 1.0
        if happening.noise is not None:
            assert data.color_noise is not None
            divide_by = data.color_noise.divide_by
            x = _float32(x + _float32(happening.noise[channel]))
            steps.append(x)
        factor = float(_float32(1 / (divide_by * (1.0 if data.std is None else data.std[channel]))))
        whole = all((step == np.rint(step)).all() for step in steps) and factor == 1.0
        largest = np.max(np.abs(steps), axis=0)
        x = _float32(x * factor)
        planes.append(x)
        units.append(np.zeros_like(x) if whole else np.maximum(_unit(largest) * factor, _unit(x)))
    return Expected(np.stack(planes), np.stack(units))


def _unit(x: Array) -> Array:
    """The unit in the last place of float32 at x."""
    unit: Array = np.spacing(np.abs(x).astype(np.float32)).astype(np.float64)
    return unit


def _turned(plane: Array, happening: Happening) -> Array:
    return plane[:, ::-1] if happening.flip else plane


def _mean(spec: Spec, known: Known, channel: int, happening: Happening) -> Array:
    """What is subtracted from one channel, in units of the scaled pixel: a number or (H, W)."""
    mean, size = spec.data.mean, spec.input
    if mean.kind == "values":
        assert mean.values is not None
        return np.asarray(mean.values[channel])
    if mean.kind == "channel":
        return np.asarray(spec.data.scale * known.channel_mean[channel])
    plane = spec.data.scale * known.mean_image[channel]
    rows, columns = _rest(spec)
    moves = mean.align == "crop"
    row, column = (happening.row, happening.column) if moves else (rows // 2, columns // 2)
    cut = plane[row : row + size.height, column : column + size.width]
    return _turned(cut, happening) if moves else cut


# --- what evaluation makes of scores --------------------------------------------------------------------------------


def probabilities(logits: Array) -> Array:
    """The softmax of one view's logits (classes,)."""
    powers = np.exp(logits - logits.max())
    found: Array = powers / powers.sum()
    return found


@dataclass(frozen=True)
class Verdict:
    """What evaluation must say of one image."""

    least: int
    """How many classes are at least before its label,"""
    most: int
    """and how many at most, whatever rounding does."""
    answer: int
    sure: bool
    """Whether rounding cannot change the answer."""
    confidence: float
    reach: float
    """By how much the confidence may differ."""


def verdict(logits: Array, bounds: Array, label: int, average: str) -> Verdict:
    """Of the logits (V, classes) of all views of one image by one model or several, each within its bound."""
    scores, reach = np.zeros(logits.shape[1]), np.zeros(logits.shape[1])
    for view, bound in zip(logits, bounds, strict=True):
        if average == "logits":
            scores, reach = scores + view, reach + bound
        else:
            p = probabilities(view)
            # No logit moves by more than the largest bound: p moves by a factor of at most exp of twice that.
            scores, reach = scores + p, reach + p * math.expm1(2 * bound.max())
    scores, reach = scores / len(logits), reach / len(logits)
    least = most = 0
    for number, score in enumerate(scores):
        if number == label:
            continue
        ahead = score - scores[label]
        slack = reach[number] + reach[label]
        if not slack:
            counts = (ahead > 0 or (ahead == 0 and number < label),) * 2
        else:
            counts = (ahead > slack, ahead >= -slack)
        least, most = least + counts[0], most + counts[1]
    answer = int(np.argmax(scores))
    rivals = [number for number in range(len(scores)) if number != answer]
    exact = not reach.any()
    sure = exact or all(scores[answer] - scores[number] > reach[answer] + reach[number] for number in rivals)
    if average == "probabilities":
        return Verdict(least, most, answer, sure, float(scores[answer]), float(reach[answer]) + 1e-12)
    confidence = float(probabilities(scores)[answer])
    return Verdict(least, most, answer, sure, confidence, confidence * math.expm1(2 * reach.max()) + 1e-12)
