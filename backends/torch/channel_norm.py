"""Response normalisation across channels as one loop over memory, compiled by Numba for this machine's vectors.

PyTorch's operations read and write a map a dozen times; here forward reads x and writes y, and backward reads x and g
and writes dx, with all between in a core's first cache. The arithmetic is that of :mod:`backends.torch.normalization`,
in its order and with a rounding after every operation (Numba contracts nothing unless told to): the bits are the same.

Numba compiles on the first call, in about three seconds, and keeps the machine code beside this file or in the user's
cache, where the next process finds it. Importing this module raises ImportError where Numba is not installed.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.compiled import compiled

Floats = npt.NDArray[Any]

_ALONE = 1 << 15
"""Elements below which a second thread costs more than it does."""


def normalise(x: Tensor, before: int, after: int, groups: int, a: float, k: float) -> tuple[Tensor, None]:
    """y = x d ** -0.75, d = k + a S(x^2), of floating-point x (N, C, H, W) that lies channels last. Likewise y.

    S sums over `before` channels before and `after` after each, cut at the borders of `groups` slices. Types narrower
    than float32 are computed in it. d is not kept: to compute it again costs less than to write and read it.
    """
    rows = _rows(x)
    y = torch.empty_like(rows)
    _by_rows(_forward, groups, (rows, y), before, after, (a, k))
    return y.permute(0, 3, 1, 2).to(x.dtype), None


def differentiate(g: Tensor, x: Tensor, d: None, before: int, after: int, groups: int, a: float, k: float) -> Tensor:
    """The gradient by x of ``(g * y).sum()``, y and d being what :func:`normalise` returned; g (N, C, H, W)."""
    rows = _rows(x)
    dx = torch.empty_like(rows)
    _by_rows(_backward, groups, (_rows(g), rows, dx), before, after, (a, k, -2 * a * 0.75))
    return dx.permute(0, 3, 1, 2).to(x.dtype)


def _rows(x: Tensor) -> Tensor:
    """`x` as (N, H, W, C), contiguous, and at least float32."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return wide.permute(0, 2, 3, 1).contiguous()


def _by_rows(
    function: Callable[..., None],
    groups: int,
    tensors: tuple[Tensor, ...],
    before: int,
    after: int,
    factors: tuple[float, ...],
) -> None:
    """``function(*rows of tensors, ...)`` by PyTorch's number of threads; a row is one place's slice of channels."""
    width = tensors[0].shape[-1] // groups
    arrays = [tensor.reshape(-1, width).numpy() for tensor in tensors]
    count = len(arrays[0])
    threads = max(1, min(torch.get_num_threads(), count * width // _ALONE))
    cuts = [count * i // threads for i in range(threads + 1)]
    pieces = [[array[first:last] for array in arrays] for first, last in pairwise(cuts)]
    rule = (before, after, *map(arrays[0].dtype.type, factors))
    others = [_pool(threads - 1).submit(function, *piece, *rule) for piece in pieces[1:]]
    function(*pieces[0], *rule)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="channel-norm")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


@compiled
def _sums(total: Floats, terms: Floats, before: int, after: int) -> None:
    """total = S(terms), as a sum of shifted slices: nothing cancels."""
    n = len(terms)
    for c in range(n):
        total[c] = terms[c]
    for shift in range(1, min(before, n - 1) + 1):
        later, earlier = total[shift:], terms[: n - shift]
        for c in range(n - shift):
            later[c] += earlier[c]
    for shift in range(1, min(after, n - 1) + 1):
        earlier, later = total[: n - shift], terms[shift:]
        for c in range(n - shift):
            earlier[c] += later[c]


@compiled
def _forward(x: Floats, y: Floats, before: int, after: int, a: Any, k: Any) -> None:
    n = x.shape[1]
    squares, d, one = np.empty(n, x.dtype), np.empty(n, x.dtype), x.dtype.type(1)
    for row in range(len(x)):
        x_row, y_row = x[row], y[row]
        for c in range(n):
            squares[c] = x_row[c] * x_row[c]
        _sums(d, squares, before, after)
        for c in range(n):
            root = one / math.sqrt(d[c] * a + k)
            y_row[c] = x_row[c] * (root / (one / math.sqrt(root)))


@compiled
def _backward(g: Floats, x: Floats, dx: Floats, before: int, after: int, a: Any, k: Any, slope: Any) -> None:
    n = x.shape[1]
    terms, sums, direct = np.empty(n, x.dtype), np.empty(n, x.dtype), np.empty(n, x.dtype)
    one = x.dtype.type(1)
    for row in range(len(x)):
        g_row, x_row, dx_row = g[row], x[row], dx[row]
        for c in range(n):
            terms[c] = x_row[c] * x_row[c]
        _sums(sums, terms, before, after)
        for c in range(n):
            d = sums[c] * a + k
            root = one / math.sqrt(d)
            through = g_row[c] * (root / (one / math.sqrt(root)))
            direct[c] = through
            terms[c] = through * x_row[c] / d
        _sums(sums, terms, after, before)
        for c in range(n):
            dx_row[c] = sums[c] * x_row[c] * slope + direct[c]
