"""What a wrong tensor looks like beside the right one, in words, where it has a simple form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from backends.base import Array

SORTABLE = 2_000_000
"""Above this many elements only factors are looked for."""
FEW = 6
"""So many places at most are worth listing."""
KEPT = {"bfloat16": (1.3, 2.75), "float16 or TF32": (2.75, 4.3), "float32": (5.8, 8.5)}
"""Digits to which a tensor agrees if something in it was rounded to so few bits."""
FINE = 1e-9
"""Bounds that are this share of a tensor, or less, are those of float64: elsewhere all is rounded to float32."""


def pattern(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    """A remark that follows a semicolon, or nothing. Arrays are float64 of one shape; axes: what their dimensions are
    called."""
    if not received.any():
        return "; it is zero throughout"
    looks: tuple[Callable[..., str], ...] = (_factor,)
    if 1 < expected.size <= SORTABLE:
        looks = (_factor, _exchanged, _reordered, _offset, _cut_off, _somewhere, _coarse)
    return next((said for look in looks if (said := look(received, expected, limits, axes))), "")


def _factor(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    power = float(np.vdot(expected, expected))
    if power == 0 or expected.size < 2:
        return ""
    factor = float(np.vdot(received, expected)) / power
    if np.abs(received - factor * expected).max() <= limits.max() * max(1.0, abs(factor)):
        return f"; it is {factor:.6g} times what it should be throughout"
    return ""


def _exchanged(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    """Along one axis, or two of the same length."""
    for i, axis in enumerate(axes[: expected.ndim]):
        if expected.shape[i] > 1 and _same(received, np.flip(expected, i), limits):
            return f"; its {axis}s are in the opposite order"
    for i in range(expected.ndim):
        for j in range(i):
            if expected.shape[i] == expected.shape[j] and _same(received, np.swapaxes(expected, i, j), limits):
                return f"; its {axes[j]}s and {axes[i]}s are exchanged"
    return ""


def _same(received: Array, other: Array, limits: Array) -> bool:
    return bool(np.abs(received - other).max() <= limits.max())


def _reordered(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    if np.abs(np.sort(received, axis=None) - np.sort(expected, axis=None)).max() <= limits.max():
        return "; it has the right numbers in another order"
    return ""


def _offset(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    """A constant for each channel of maps or unit of vectors."""
    if axes[0] != "image" or expected.ndim < 2 or expected.size < 4 * expected.shape[1]:
        return ""
    other = tuple(i for i in range(expected.ndim) if i != 1)
    difference = received - expected
    if (np.ptp(difference, axis=other) <= 2 * limits.max()).all():
        return f"; every {axes[1]} is off by a constant of its own, as with another bias"
    return ""


def _cut_off(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    low, high = float(received.min()), float(received.max())
    if not _same(received, np.clip(expected, low, high), limits):
        return ""
    reach = float(limits.max())
    ends = {f"below at {low:.6g}": expected.min() < low - reach, f"above at {high:.6g}": expected.max() > high + reach}
    return f"; it is what it should be, but cut off {' and '.join(end for end, cut in ends.items() if cut)}"


def _somewhere(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    """Wrong in few places along some axes alone."""
    wrong = np.abs(received - expected) > limits
    places = []
    for i, axis in enumerate(axes[: wrong.ndim]):
        seen = np.flatnonzero(wrong.any(axis=tuple(j for j in range(wrong.ndim) if j != i)))
        if 0 < len(seen) < wrong.shape[i] and len(seen) <= FEW:
            places.append(f"{axis}{'s' * (len(seen) > 1)} {', '.join(map(str, seen))}")
    return f"; what is wrong is in {' of '.join(reversed(places))} alone" if places else ""


def _coarse(received: Array, expected: Array, limits: Array, axes: Sequence[str]) -> str:
    """Everywhere, by little."""
    furthest, scale = float(np.abs(received - expected).max()), float(np.abs(expected).max())
    digits = math.log10(scale / furthest) if scale > 0 else 0.0
    for dtype, (least, most) in KEPT.items():
        if least <= digits < most and (dtype != "float32" or limits.max() <= FINE * scale):
            return f"; it agrees to {digits:.1f} digits, as if something had been rounded to {dtype}"
    return ""
