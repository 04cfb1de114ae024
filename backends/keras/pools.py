"""The gradient of max-pooling in JAX by shifted maps, where XLA has nothing quick for a CPU.

XLA scatters each cotangent to the first of its window's largest values, one at a time. Here every place of the windows
is a map by itself, compared as a whole with the maxima: nine elementwise passes for a window of nine, a third of the
time or less. The same values get the same cotangents; they are added in another order where windows overlap. Only the
first derivative is there, and only backward: the function defines its own.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[int, int]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: Any, size: Pair, strides: Pair, padding: str) -> Any:
    """The largest value of each window of x (N, H, W, C); padding: ``valid``, or ``same`` by minus infinity."""
    return _plain(x, size, strides, padding)


def _plain(x: Any, size: Pair, strides: Pair, padding: str) -> Any:
    lowest = np.array(-np.inf, x.dtype)  # of NumPy: JAX differentiates the maximum that it can tell for one
    return lax.reduce_window(x, lowest, lax.max, (1, *size, 1), (1, *strides, 1), padding.upper())


def _remembered(x: Any, size: Pair, strides: Pair, padding: str) -> tuple[Any, tuple[Any, Any]]:
    y = _plain(x, size, strides, padding)
    return y, (x, y)


def _gradient(size: Pair, strides: Pair, padding: str, remembered: tuple[Any, Any], g: Any) -> tuple[Any]:
    def scattered(x: Any, y: Any, g: Any) -> Any:
        del y
        return jax.vjp(partial(_plain, size=size, strides=strides, padding=padding), x)[1](g)[0]

    shifted = partial(_shifted, size=size, strides=strides, padding=padding)
    return (lax.platform_dependent(*remembered, g, cpu=shifted, default=scattered),)


max_pool.defvjp(_remembered, _gradient)


def _shifted(x: Any, y: Any, g: Any, *, size: Pair, strides: Pair, padding: str) -> Any:
    """The gradient by x of ``(g * y).sum()``; of equal values in a window the first, row by row, has it.

    So has the first NaN; XLA's scatter, whose comparisons with it are all false, gives it to whatever comes after.
    """
    sides = lax.padtype_to_pads(x.shape[1:3], size, strides, padding.upper())
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)
    spans = [step * (count - 1) + 1 for step, count in zip(strides, y.shape[1:3], strict=True)]
    zero, found, total = jnp.zeros((), g.dtype), jnp.zeros(y.shape, bool), None
    for begin in product(*map(range, size)):
        rows, columns = (slice(i, i + span, step) for i, span, step in zip(begin, spans, strides, strict=True))
        here = x[:, rows, columns]
        largest = ((here == y) | (jnp.isnan(here) & jnp.isnan(y))) & ~found
        found |= largest
        borders = [
            (i, length - i - span, step - 1)
            for i, length, span, step in zip(begin, x.shape[1:3], spans, strides, strict=True)
        ]
        part = lax.pad(jnp.where(largest, g, zero), zero, ((0, 0, 0), *borders, (0, 0, 0)))
        total = part if total is None else total + part
    assert total is not None
    (top, bottom), (left, right) = sides
    return total[:, top : total.shape[1] - bottom, left : total.shape[2] - right]
