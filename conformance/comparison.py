"""One tensor against what it must be: name, shape, dtype, finiteness, and every element within its bound. Said in
words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import Array
from conformance.oracle import Expected

_SORTABLE = 2_000_000
"""Above this many elements it is not worth looking whether they are the right ones in another order."""
_KINDS = {
    "map": ("image", "channel", "row", "column"),
    "vector": ("image", "unit"),
    "kernel": ("output", "input", "kernel row", "kernel column", "row", "column"),
    "bias": ("output", "row", "column"),
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


def compare(check: str, tensor: str, received: Any, expected: Expected, dtype: str | None, kind: str) -> Finding:
    """Compare one tensor. dtype: what it must have, None where it is a number. kind: what its dimensions mean."""
    value = np.asarray(expected.value)
    array = np.asarray(received)
    if array.shape != value.shape:
        return _failed(check, tensor, f"has shape {array.shape}, but should have {value.shape}")
    if dtype is not None and array.dtype != np.dtype(dtype):
        return _failed(check, tensor, f"has dtype {array.dtype}, but should have {dtype}")
    finite = np.isfinite(array)
    if not finite.all():
        count, first = finite.size - int(finite.sum()), _index(~finite, int(np.argmax(~finite)))
        where = _place(first, kind)
        return _failed(
            check, tensor, f"is not finite in {count} of {array.size} elements, first at {where}: {array[first]}"
        )
    distance = np.abs(np.subtract(array, value, dtype=np.float64))
    limits = np.broadcast_to(expected.bound, value.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(distance > 0, distance / limits, 0.0)
    worst = _index(ratios, int(np.argmax(ratios))) if value.size else ()
    furthest, ratio = float(distance.max(initial=0.0)), float(ratios.max(initial=0.0))
    scale = float(np.abs(value).max(initial=0.0))
    digits = math.inf if furthest == 0 else math.log10(scale / furthest) if scale > 0 else 0.0
    fault = None
    if ratio > 1:
        beyond = int((ratios > 1).sum())
        fault = (
            f"differs in {beyond} of {value.size} elements; at {_place(worst, kind)} it is {array[worst]:.7g} "
            f"but should be {value[worst]:.7g}: the error is {distance[worst]:.2g}, "
            f"the bound {limits[worst]:.2g}{_pattern(array, value, float(limits.max()))}"
        )
    error, limit = (float(distance[worst]), float(limits[worst])) if value.size else (0.0, 0.0)
    return Finding(check, tensor, error, limit, ratio, digits, fault)


def compare_all(
    check: str,
    received: Mapping[str, Any],
    expected: Mapping[str, Expected],
    dtype: str,
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
        compare(check, tensor.format(name), received[name], one, dtype, kind or kind_of(name, one.value))
        for name, one in expected.items()
    ]


def kind_of(name: str, value: Array) -> str:
    """What the dimensions of a tensor mean: of ``conv1.weight``, of ``conv1.bias``, of an output or of images."""
    if name.endswith(".weight"):
        return "kernel"
    if name.endswith(".bias"):
        return "bias"
    return "map" if value.ndim == 4 else "vector"


def _index(array: Array, flat: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, array.shape))


def _place(index: tuple[int, ...], kind: str) -> str:
    return ", ".join(f"{axis} {i}" for axis, i in zip(_KINDS[kind], index, strict=False)) or "its one element"


def _pattern(array: Array, value: Array, limit: float) -> str:
    """A remark on the difference as a whole, where it has a simple form."""
    received, expected = array.astype(np.float64).ravel(), value.ravel()
    if not received.any():
        return "; it is zero throughout"
    power = float(expected @ expected)
    if power > 0 and expected.size > 1:
        factor = float(received @ expected) / power
        if np.abs(received - factor * expected).max() <= limit * max(1.0, abs(factor)):
            return f"; it is {factor:.6g} times what it should be throughout"
    if 1 < expected.size <= _SORTABLE and np.abs(np.sort(received) - np.sort(expected)).max() <= limit:
        return "; it has the right numbers in another order"
    return ""
