"""Local response normalisation as a PyTorch module, by a closed-form backward and without a power function.

``F.local_response_norm`` pools in three dimensions and calls ``pow``, which on a CPU costs more than the convolutions
around it. Here a window is a sum of shifted maps, d ** -0.75 is made of roots, and backward is the formula of
``spec/README.md`` in two such sums. Where beta = 0.75, one loop over memory does it: on a CPU, where maps lie channels
last, compiled by Numba (:mod:`backends.torch.channel_norm`); on a GPU by Triton
(:mod:`backends.torch.channel_norm_gpu`). Everything else, and where these are not installed, PyTorch's operations do;
on a CPU they do so on a few images at a time, and with the bits of the loop. ``benchmarks/run.py --suite lrn`` measures
what that is worth.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from backends.torch.compiled import compiled
from spec import LayerGeometry
from spec.language import Lrn, SpatialNorm


class Channels(NamedTuple):
    """`before` channels before and `after` channels after each one, cut at the borders of `groups` slices."""

    before: int
    after: int
    groups: int

    def sums(self, x: Tensor) -> Tensor:
        """Sums of shifted maps, not a running sum that adds the head and takes away the tail: nothing cancels."""
        slices = x.unflatten(1, (self.groups, -1))
        total = _fused(slices, self) if torch.compiler.is_compiling() else _in_place(slices, self)
        return total.flatten(1, 2)

    def transposed_sums(self, x: Tensor) -> Tensor:
        return Channels(self.after, self.before, self.groups).sums(x)


class Square(NamedTuple):
    """The `size` x `size` square around each place, cut at the border of the map."""

    size: int

    def sums(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.size, 1, self.size // 2, divisor_override=1)

    def transposed_sums(self, x: Tensor) -> Tensor:
        return self.sums(x)


Window = Channels | Square


def _fused(slices: Tensor, window: Channels) -> Tensor:
    """One expression of shifted views of a padded map, of which the compiler makes one loop."""
    channels = slices.shape[2]
    padded = F.pad(slices, (0, 0, 0, 0, window.before, window.after))
    total = padded.narrow(2, 0, channels)
    for shift in range(1, window.before + window.after + 1):
        total = total + padded.narrow(2, shift, channels)
    return total


def _in_place(slices: Tensor, window: Channels) -> Tensor:
    """The same where every operation is a loop of its own: a map is written once and added to."""
    total, most = slices.clone(), slices.shape[2] - 1
    for shift in range(1, min(window.before, most) + 1):
        total[:, :, shift:] += slices[:, :, :-shift]
    for shift in range(1, min(window.after, most) + 1):
        total[:, :, :-shift] += slices[:, :, shift:]
    return total


def inverse_power(d: Tensor, beta: float) -> Tensor:
    """d ** -beta, by roots where beta allows it: `pow` costs many times as much.

    By `rsqrt` alone: PyTorch's `sqrt` may be a library's that does not always round to the nearest.
    """
    if beta == 0.75:
        root = d.rsqrt()
        return root / root.rsqrt()
    return d.rsqrt() if beta == 0.5 else d.pow(-beta)


def _wide(x: Tensor) -> Tensor:
    """At least float32: in bfloat16 the sum of squares would keep two digits, in float16 it overflows from 256 on."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


BLOCK = 1 << 18
"""Elements that a block of images has: with its intermediate results it stays in a core's cache."""


def _by_blocks(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """``function(*tensors)`` for a function that treats every image alike.

    On a CPU a dozen operations one after another on a full map wait for memory. On a few images at a time they do not,
    which halves their time; a compiler makes one loop of them by itself, and a GPU has the bandwidth.
    """
    first = tensors[0]
    images = max(1, BLOCK // max(1, first[:1].numel()))
    if torch.compiler.is_compiling() or first.device.type != "cpu" or len(first) <= images:
        return function(*tensors)
    whole: tuple[Tensor, ...] = ()
    for start in range(0, len(first), images):
        rows = slice(start, start + images)
        parts = function(*(tensor[rows] for tensor in tensors))
        whole = whole or tuple(torch.empty_like(first, dtype=part.dtype) for part in parts)
        for all_images, part in zip(whole, parts, strict=True):
            all_images[rows] = part
    return whole


LOOPS = {"cpu": "channel_norm", "cuda": "channel_norm_gpu"}
"""By a device's type: the module beside this one that has the loop."""
LAYOUTS = {"cpu": (torch.channels_last,), "cuda": (torch.channels_last, torch.contiguous_format)}
"""How maps may lie for it."""
WIDEST = {"cpu": torch.float64, "cuda": torch.float32}


def loop(x: Tensor, window: Window, beta: float) -> ModuleType | None:
    """The compiled loop, if there is one for `x` and the others."""
    device = x.device.type
    if device not in LOOPS or type(x) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
        return None
    known = isinstance(window, Channels) and beta == 0.75
    known &= x.is_floating_point() and x.dtype.itemsize <= WIDEST[device].itemsize
    lies = x.ndim == 4 and x.numel() > 0 and any(x.is_contiguous(memory_format=layout) for layout in LAYOUTS[device])
    return compiled(LOOPS[device]) if known and lies else None


class ResponseNormFunction(torch.autograd.Function):
    """y = x p, p = d ** -beta, d = k + a S(x^2), with S the sum over a window and S' its transpose.

    Backward, by hand: dx = g p - 2 a beta x S'(g y / d). Two sums in all, where autograd would keep every shifted map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window, a: float, beta: float, k: float) -> Tensor:
        def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
            wide = _wide(x)
            d = window.sums(wide * wide).mul_(a).add_(k)
            return (wide * inverse_power(d, beta)).to(x.dtype), d

        ctx.window, ctx.a, ctx.beta, ctx.k = window, a, beta, k
        ctx.loop = loop(x, window, beta)
        y, d = _by_blocks(normalise, x) if ctx.loop is None else ctx.loop.normalise(x, *window, a, k)
        ctx.save_for_backward(x, d)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        def differentiate(g: Tensor, x: Tensor, d: Tensor) -> tuple[Tensor]:
            wide = _wide(x)
            direct = _wide(g) * inverse_power(d, ctx.beta)
            through_sums = ctx.window.transposed_sums((direct * wide).div_(d))
            return (through_sums.mul_(wide).mul_(-2 * ctx.a * ctx.beta).add_(direct).to(x.dtype),)

        if ctx.loop is not None:
            dx = ctx.loop.differentiate(g, *ctx.saved_tensors, *ctx.window, ctx.a, ctx.k)
        else:
            (dx,) = _by_blocks(differentiate, g, *ctx.saved_tensors)
        return dx, None, None, None, None


class ResponseNorm(nn.Module):
    """Local response normalisation, across channels (lrn) or within a map (spatial_norm)."""

    def __init__(self, place: LayerGeometry) -> None:
        super().__init__()
        layer = place.layer
        assert isinstance(layer, Lrn | SpatialNorm)
        self.layer = layer
        self.window: Window = (
            Square(layer.size) if isinstance(layer, SpatialNorm) else Channels(*layer.window, layer.groups)
        )

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        y: Tensor = ResponseNormFunction.apply(x, self.window, layer.coefficient, layer.beta, layer.k)
        return y

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.layer.model_dump(exclude={"name", "op"}).items())
