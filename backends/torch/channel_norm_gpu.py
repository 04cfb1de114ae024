"""Response normalisation across channels on a GPU, as one kernel each way, compiled by Triton.

PyTorch's operations pass through a map some sixty times, forward and backward. Here forward reads x and writes y and
the denominators d; backward reads x, d and y's cotangent g, and writes dx; neighbouring channels come out of the
caches. The formulas are those of :mod:`backends.torch.normalization`; sums are of shifted maps, in float32. float64 is
left to PyTorch: Triton takes the numbers that a kernel is given, such as k, as float32.

Triton comes with PyTorch for NVIDIA and AMD GPUs on Linux. Importing this module raises ImportError where it is not
installed. With ``TRITON_INTERPRET=1`` in the environment, before the import, kernels run on a CPU: so they are tested.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512
"""Elements that a program of the grid computes: four for each thread. With eight, forward and backward in bfloat16 take
1.6 times as long on an H200 (paper-2012 norm1, batch 256)."""


def normalise(x: Tensor, before: int, after: int, groups: int, a: float, k: float) -> tuple[Tensor, Tensor]:
    """(y, d): y = x d ** -0.75 with d = k + a S(x^2), of x (N, C, H, W) of float32 or a narrower type.

    x is contiguous in either layout; y is laid out alike, in its dtype; d is float32. S sums over `before` channels
    before and `after` after each, cut at the borders of `groups` slices.
    """
    y, d = torch.empty_like(x), torch.empty_like(x, dtype=torch.float32)
    step, width = _steps(x, groups)
    with on_device_of(x):
        _forward[_grid(x)](x, y, d, x.numel(), a, k, step, width, before, after, _BLOCK)
    return y, d


def differentiate(g: Tensor, x: Tensor, d: Tensor, before: int, after: int, groups: int, a: float, k: float) -> Tensor:
    """The gradient by x of ``(g * y).sum()``, y and d being what :func:`normalise` returned; g (N, C, H, W)."""
    g = g.contiguous(memory_format=_layout(x))
    dx = torch.empty_like(x)
    step, width = _steps(x, groups)
    with on_device_of(x):
        _backward[_grid(x)](g, x, d, dx, x.numel(), -1.5 * a, step, width, after, before, _BLOCK)
    return dx


def launch() -> None:
    """Compile and run the smallest kernel on a GPU. Raises whatever Triton does where it cannot."""
    normalise(torch.ones(1, 1, 1, 1, device="cuda"), 0, 0, 1, 1.0, 1.0)


def _layout(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _steps(x: Tensor, groups: int) -> tuple[int, int]:
    """How far apart in memory neighbouring channels are, and how many a slice has."""
    _, channels, height, width = x.shape
    return (height * width if x.is_contiguous() else 1), channels // groups


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), _BLOCK),)


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@triton.jit
def _place(count, STEP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """This program's elements, which of them exist, and their channels within a slice.

    The one division of a 64-bit number is of a scalar.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK
    inner = tl.arange(0, BLOCK)
    channel = ((first % (STEP * WIDTH)).to(tl.int32) + inner) // STEP % WIDTH
    return first + inner, inner < count - first, channel


@triton.jit
def _square(x_at, at, exists):  # type: ignore[no-untyped-def]
    x = tl.load(x_at + at, exists, other=0.0).to(tl.float32)
    return x * x


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x_at, y_at, d_at, count, a, k, STEP: tl.constexpr, WIDTH: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at, exists, channel = _place(count, STEP, WIDTH, BLOCK)
    x = tl.load(x_at + at, exists, other=0.0).to(tl.float32)
    total = x * x
    for shift in tl.static_range(1, BEFORE + 1):
        total += _square(x_at, at - shift * STEP, exists & (channel >= shift))
    for shift in tl.static_range(1, AFTER + 1):
        total += _square(x_at, at + shift * STEP, exists & (channel < WIDTH - shift))
    d = total * a + k
    root = tl.math.rsqrt(d)
    tl.store(d_at + at, d, exists)
    tl.store(y_at + at, (x * (root * tl.sqrt(root))).to(y_at.dtype.element_ty), exists)


@triton.jit
def _term(g_at, x_at, d_at, at, exists):  # type: ignore[no-untyped-def]
    """g p, g p x / d, and x, of some elements; p = d ** -0.75."""
    g, x = tl.load(g_at + at, exists, other=0.0).to(tl.float32), tl.load(x_at + at, exists, other=0.0).to(tl.float32)
    root = tl.math.rsqrt(tl.load(d_at + at, exists, other=1.0))
    direct = g * (root * tl.sqrt(root))
    return direct, direct * x * (root * root), x


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    g_at, x_at, d_at, dx_at, count, slope, STEP: tl.constexpr, WIDTH: tl.constexpr, BEFORE: tl.constexpr,
    AFTER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, exists, channel = _place(count, STEP, WIDTH, BLOCK)
    direct, total, x = _term(g_at, x_at, d_at, at, exists)
    for shift in tl.static_range(1, BEFORE + 1):
        total += _term(g_at, x_at, d_at, at - shift * STEP, exists & (channel >= shift))[1]
    for shift in tl.static_range(1, AFTER + 1):
        total += _term(g_at, x_at, d_at, at + shift * STEP, exists & (channel < WIDTH - shift))[1]
    tl.store(dx_at + at, (direct + slope * x * total).to(dx_at.dtype.element_ty), exists)
