"""One tensor against what it must be: name, shape, dtype, finiteness, every element within its bound. Said in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backends.base import Array
from conformance.oracle import Expected
from conformance.patterns import pattern

BLOCK = 1 << 18
"""Elements compared at a time: few enough to stay in cache."""
_KINDS = {
    "map": ("image", "channel", "row", "column"),
    "vector": ("image", "unit"),
    "kernel": ("output", "input", "kernel row", "kernel column", "row", "column"),
    "bias": ("output", "row", "column"),
    "number": (),
    "step": ("place",),
    "place": ("place",),
    "views": ("image", "view", "channel", "row", "column"),
    "photograph": ("row", "column", "channel"),
    "statistic": ("channel", "row", "column"),
}


@dataclass(frozen=True)
class Finding:
    """What came of one comparison. `fault` says in words what is wrong, None that nothing is."""

    check: str
    tensor: str
    error: float
    """Distance from the expected value, at the element where it is largest beside its bound."""
    bound: float
    """The bound of that element."""
    ratio: float
    """error / bound; up to 1 is right."""
    digits: float
    """Decimal digits to which the whole tensor agrees, of its largest expected value."""
    fault: str | None = None

    @property
    def passed(self) -> bool:
        return self.fault is None


def _failed(check: str, tensor: str, fault: str) -> Finding:
    return Finding(check, tensor, math.inf, 0.0, math.inf, 0.0, fault)


def compare(check: str, tensor: str, received: Any, expected: Expectation, dtype: str | None, kind: str) -> Finding:
    """Compare one tensor, block by block. dtype: what it must have, None where it is a number. kind: see ``_KINDS``."""
    array, shape = np.asarray(received), expected.shape
    if array.shape != shape:
        return _failed(check, tensor, f"has shape {array.shape}, but should have {shape}")
    if dtype is not None and array.dtype != np.dtype(dtype):
        return _failed(check, tensor, f"has dtype {array.dtype}, but should have {dtype}")
    array, kind, seen = np.atleast_1d(array), kind if shape else "number", _Seen()
    for rows in _blocks(array.shape):
        seen.take(rows.start, array[rows], expected.part(rows))
    if seen.not_finite:
        where = f"first at {_place(seen.not_finite_at, kind)}: {array[seen.not_finite_at]}"
        fault = f"is not finite in {seen.not_finite} of {array.size} elements, {where}"
        return _failed(check, tensor, fault)
    digits = math.inf if seen.furthest == 0 else math.log10(seen.scale / seen.furthest) if seen.scale > 0 else 0.0
    return Finding(check, tensor, seen.error, seen.limit, seen.ratio, digits, _fault(seen, array, expected, kind))


class Expectation(Protocol):
    """What :func:`compare` needs to know: of :class:`conformance.oracle.Expected`, or worked out block by block."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def part(self, rows: slice) -> Expected: ...


@dataclass(frozen=True)
class Derived:
    """An expectation that is worked out when a part of it is compared: that of a full network would fill memory."""

    shape: tuple[int, ...]
    part: Callable[[slice], Expected]


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of the first dimension, about BLOCK elements at a time."""
    rows = max(1, BLOCK // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], rows):
        yield slice(first, min(first + rows, shape[0]))


class _Seen:
    """What the blocks of a tensor have shown so far."""

    def __init__(self) -> None:
        self.not_finite, self.not_finite_at = 0, tuple[int, ...]()
        self.beyond, self.furthest, self.scale = 0, 0.0, 0.0
        self.ratio, self.error, self.limit = 0.0, 0.0, 0.0
        self.worst: tuple[int, ...] = ()
        self.value = 0.0

    def take(self, first: int, array: Array, part: Expected) -> None:
        value = part.value
        finite = np.isfinite(array)
        if not finite.all():
            if not self.not_finite:
                self.not_finite_at = _index(array.shape, int(np.argmin(finite)), first)
            self.not_finite += finite.size - int(finite.sum())
            return
        distance = np.abs(np.subtract(array, value, dtype=np.float64))
        limits = np.broadcast_to(part.bound, value.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(distance > 0, distance / limits, 0.0)
        self.beyond += int((ratios > 1).sum())
        self.furthest = max(self.furthest, float(distance.max()))
        self.scale = max(self.scale, float(np.abs(value).max()))
        flat = int(np.argmax(ratios))
        if ratios.flat[flat] > self.ratio or not self.worst:
            at = _index(array.shape, flat, 0)
            self.worst = _index(array.shape, flat, first)
            self.ratio, self.error, self.limit = float(ratios[at]), float(distance[at]), float(limits[at])
            self.value = float(value[at])


def _fault(seen: _Seen, array: Array, expected: Expectation, kind: str) -> str | None:
    if seen.ratio <= 1:
        return None
    at, whole = seen.worst, expected.part(slice(None))
    wide = array.astype(np.float64), whole.value.astype(np.float64)
    limits = np.broadcast_to(whole.bound, array.shape)
    return (
        f"differs in {seen.beyond} of {array.size} elements; at {_place(at, kind)} it is {float(array[at]):.7g} "
        f"but should be {seen.value:.7g}: the error is {seen.error:.2g}, "
        f"the bound {seen.limit:.2g}{pattern(*wide, limits, _KINDS[kind])}"
    )


def compare_all(
    check: str,
    received: Mapping[str, Any],
    expected: Mapping[str, Expectation],
    dtype: str | None,
    *,
    tensor: str,
    kind: str | None = None,
) -> list[Finding]:
    """Compare named tensors in the order of `expected`. tensor: what one is called, ``{}`` standing for its name."""
    missing = [name for name in expected if name not in received]
    extra = [name for name in received if name not in expected]
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(extra)}"] * bool(extra)
        return [_failed(check, tensor.format("..."), "the answer " + " and ".join(parts))]
    return [
        compare(check, tensor.format(name), received[name], one, dtype, kind or kind_of(name, one.shape))
        for name, one in expected.items()
    ]


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    """What the dimensions of a tensor mean: of ``conv1.weight``, of ``conv1.bias``, of an output or of images."""
    if name.endswith(".weight"):
        return "kernel"
    if name.endswith(".bias"):
        return "bias"
    return "map" if len(shape) == 4 else "vector"


def _index(shape: tuple[int, ...], flat: int, first: int) -> tuple[int, ...]:
    """Where element `flat` of a block of `shape` is, if the block's first row is row `first`."""
    row, *rest = (int(i) for i in np.unravel_index(flat, shape))
    return (first + row, *rest)


def _place(index: tuple[int, ...], kind: str) -> str:
    return ", ".join(f"{axis} {i}" for axis, i in zip(_KINDS[kind], index, strict=False)) or "its one element"
