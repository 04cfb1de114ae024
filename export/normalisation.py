"""Response normalisations recognised by what they compute, however they are spelled.

Between a tensor x and a tensor y of the same shape lies some arithmetic. If it is a response normalisation, then
y / x = (k + a * sum of squares over a window) ** -beta, and a few inputs tell k, a, beta and the window: one that is
almost zero everywhere gives k ** -beta, a spike of two sizes gives a and beta, and the places that answer to a spike
are the window. What is found is then held against the arithmetic on random numbers: nothing else passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.tensors import MAX_COMPUTED, Tensor, Unreadable, compute

F64 = npt.NDArray[np.float64]
TINY = 1e-30
"""A base that leaves every sum of squares at nothing, and is not nothing itself."""
ANSWER = 1e-9
"""A place answers to a spike if the quotient changes there by more than this."""
AGREE = 1e-5
"""Relative error on random numbers up to which the formula is the arithmetic; constants of files are float32."""
DIGITS = 6
SIZES = (10, *range(-12, 10, 3), *range(13, 44, 3))
"""Powers of two tried as a spike, until one is answered clearly: the first serves the constants of every variant."""


@dataclass(frozen=True)
class Normalisation:
    """op ``lrn`` or ``spatial_norm``, and what defines it as a step of :mod:`spec.structure`."""

    op: str
    facts: dict[str, Any]


def recognise(x: Tensor, y: Tensor, axes: tuple[int, int, int]) -> Normalisation | None:
    """The normalisation that leads from x to y, None if it is not one.

    axes: which axes of the tensors are channels, rows and columns.
    """
    if x.shape != y.shape or math.prod(x.shape) > MAX_COMPUTED // 4:
        return None
    order = tuple(axis for axis in range(len(x.shape)) if axis not in axes) + axes
    shape = (x.shape[axes[0]], x.shape[axes[1]], x.shape[axes[2]])
    images = np.random.default_rng(1).standard_normal((math.prod(x.shape) // math.prod(shape), *shape))

    def quotient(maps: F64) -> F64:
        """y / x for maps (C, H, W), the first image of the batch; the others, which must not matter, stay."""
        images[0] = maps
        moved = images.reshape([x.shape[axis] for axis in order]).transpose(np.argsort(order))
        value = compute(y, {x: np.ascontiguousarray(moved)})
        return np.asarray(value.transpose(order).reshape(images.shape)[0] / maps)

    try:
        with np.errstate(all="ignore"):
            return _measured(quotient, shape)
    except Unreadable:
        return None


def _measured(quotient: Callable[[F64], F64], shape: tuple[int, int, int]) -> Normalisation | None:
    rest = quotient(np.full(shape, TINY))
    base = float(rest.flat[0])
    if not (math.isfinite(base) and base > 0 and np.allclose(rest, base, rtol=1e-9)):
        return None
    middle = tuple(size // 2 for size in shape)

    def spiked(size: float) -> F64:
        maps = np.full(shape, TINY)
        maps[middle] = size
        return quotient(maps)

    size = next((2.0**p for p in SIZES if base / float(spiked(2.0**p)[middle]) > 1.5), None)
    if size is None:
        return None
    answer = spiked(size)
    solved = _constants(base, base / float(answer[middle]), base / float(spiked(4 * size)[middle]), size)
    if solved is None:
        return None
    k, coefficient, beta = solved
    places = np.argwhere(np.abs(answer / base - 1) > ANSWER)
    low, high = places.min(0) - middle, places.max(0) - middle
    if not low[1:].any() and not high[1:].any():
        window = _channel_window(quotient, shape, size, base)
    elif low[0] == high[0] == 0 and len({-low[1], high[1], -low[2], high[2]}) == 1:
        window = {"size": int(2 * high[1] + 1)}
    else:
        return None
    if window is None:
        return None
    numbers = {"coefficient": _rounded(coefficient), "beta": _rounded(beta), "k": _rounded(k)}
    found = Normalisation("lrn" if "groups" in window else "spatial_norm", {**window, **numbers})
    return found if _holds(quotient, found, shape, size) else None


def _constants(base: float, one: float, other: float, size: float) -> tuple[float, float, float] | None:
    """(k, a, beta) from base = k ** -beta and (1 + a/k t^2) ** beta at t = size (one) and t = 4 size (other)."""

    def excess(beta: float) -> float:
        return math.expm1(math.log(other) / beta) - 16 * math.expm1(math.log(one) / beta)

    low, high = 0.02, 50.0
    try:
        if not (other > one > 1 and excess(low) > 0 > excess(high)):
            return None
    except OverflowError:
        low = max(low, math.log(other) / 600)
        if not excess(low) > 0 > excess(high):
            return None
    for _ in range(200):
        beta = (low + high) / 2
        low, high = (beta, high) if excess(beta) > 0 else (low, beta)
    beta = (low + high) / 2
    k = base ** (-1 / beta)
    return k, k * math.expm1(math.log(one) / beta) / size**2, beta


def _channel_window(
    quotient: Callable[[F64], F64], shape: tuple[int, int, int], size: float, base: float
) -> dict[str, Any] | None:
    """How far the window reaches before and after a channel, and the groups whose borders it does not cross."""
    channels, places = shape[0], shape[1] * shape[2]
    answers = np.zeros((channels, channels), bool)  # (spike, channel that answers)
    for start in range(0, channels, places):  # each spike at a place of its own
        count = min(places, channels - start)
        spikes = np.full((channels, places), TINY)
        spikes[np.arange(start, start + count), np.arange(count)] = size
        changed = np.abs(quotient(spikes.reshape(shape)).reshape(channels, places) / base - 1) > ANSWER
        answers[start : start + count] = changed[:, :count].T
    if not answers.diagonal().all():
        return None
    spike, channel = np.nonzero(answers)
    before, after = int((channel - spike).max()), int((spike - channel).max())
    neighbours = answers.diagonal(1) | answers.diagonal(-1)
    borders = np.flatnonzero(~neighbours) + 1 if before + after else np.array([], int)
    groups = len(borders) + 1
    if channels % groups or list(borders) != list(range(channels // groups, channels, channels // groups)):
        return None
    one, other = np.arange(channels)[:, None], np.arange(channels)[None, :]
    within = channels // groups
    expected = (one // within == other // within) & (other - one <= before) & (one - other <= after)
    return {"before": before, "after": after, "groups": groups} if np.array_equal(answers, expected) else None


def _holds(quotient: Callable[[F64], F64], found: Normalisation, shape: tuple[int, int, int], size: float) -> bool:
    """Whether the formula gives what the arithmetic gives, on random maps whose squares matter."""
    maps = np.random.default_rng(0).standard_normal(shape) * size
    sums = _sums(maps**2, found)
    facts = found.facts
    expected = (facts["k"] + facts["coefficient"] * sums) ** -facts["beta"]
    return bool(np.allclose(quotient(maps), expected, rtol=AGREE, atol=0))


def _sums(squares: F64, found: Normalisation) -> F64:
    """The sums over the window of every element of (C, H, W)."""
    if found.op == "spatial_norm":
        reach = found.facts["size"] // 2
        padded = np.pad(squares, ((0, 0), (reach, reach), (reach, reach)))
        views = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2, (1, 2))
        return np.asarray(views.sum((-2, -1)))
    before, after = found.facts["before"], found.facts["after"]
    grouped = squares.reshape(found.facts["groups"], -1, *squares.shape[1:])
    padded = np.pad(grouped, ((0, 0), (before, after), (0, 0), (0, 0)))
    total = sum(padded[:, i : i + grouped.shape[1]] for i in range(before + 1 + after))
    return np.asarray(total).reshape(squares.shape)


def _rounded(value: float) -> float:
    """`value` to the digits that a float32 constant is sure of: 1.99999995e-05 is 2e-05."""
    return float(f"{value:.{DIGITS}g}")


__all__ = ["Normalisation", "recognise"]
