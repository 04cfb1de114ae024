"""Convolution in JAX with matrix products where XLA has nothing quick for a CPU.

XLA calls the gradient by the kernel a convolution too, one whose kernel is a whole map of cotangents and whose result
is as small as a kernel. Its library for CPUs has no good loop for that: on AlexNet's conv2 it does a tenth of the
multiplications a second that a matrix product does there, and so it does for windows that move by more than one place.
Both are written here as the product that they are: the windows of a few images, side by side in a matrix small enough
for the caches (im2col), times kernel or cotangents. ``benchmarks/run.py --suite training`` measures what it is worth.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]

_BLOCK = 1 << 21
"""Elements that the windows of a block of images have, at least."""


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: Any, kernel: Any, strides: Pair, padding: str) -> Any:
    """Convolution of x (N, H, W, C) with kernel (kh, kw, C, out); padding: ``valid`` or ``same``."""
    plain = partial(_plain, strides=strides, padding=padding)
    if strides == (1, 1) or not _alone(x):
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(_forward, strides=strides, padding=padding), default=plain)


def _remembered(x: Any, kernel: Any, strides: Pair, padding: str) -> tuple[Any, tuple[Any, Any]]:
    return convolution(x, kernel, strides, padding), (x, kernel)


def _gradients(strides: Pair, padding: str, remembered: tuple[Any, Any], g: Any) -> tuple[Any, Any]:
    x, kernel = remembered
    plain = partial(_plain, strides=strides, padding=padding)
    (by_x,) = jax.vjp(lambda x: plain(x, kernel), x)[1](g)

    def by_convolution(x: Any, kernel: Any, g: Any) -> Any:
        return jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](g)[0]

    if not _alone(x):
        return by_x, by_convolution(x, kernel, g)
    by_products = partial(_by_kernel, strides=strides, padding=padding)
    return by_x, lax.platform_dependent(x, kernel, g, cpu=by_products, default=by_convolution)


convolution.defvjp(_remembered, _gradients)


def _alone(x: Any) -> bool:
    """Whether all images are in one place, and it is known how many: those of several devices are taken all at once."""
    return isinstance(x.shape[0], int) and jax.device_count() == 1


def _plain(x: Any, kernel: Any, strides: Pair, padding: str) -> Any:
    return lax.conv_general_dilated(x, kernel, strides, padding.upper(), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x: Any, kernel: Any, *, strides: Pair, padding: str) -> Any:
    height, width, channels, filters = kernel.shape
    x, (rows, columns) = _padded(x, (height, width), strides, padding)
    factor = kernel.reshape(-1, filters)

    def maps(x: Any) -> Any:
        windows = _windows(x, (height, width), strides, (rows, columns))
        return _product(windows, factor).astype(x.dtype).reshape(-1, rows, columns, filters)

    images = _images(rows * columns * height * width * channels)
    blocks, rest = _cut(x, images)
    parts = [] if blocks is None else [lax.map(maps, blocks).reshape(-1, rows, columns, filters)]
    return jnp.concatenate([*parts, *([] if rest is None else [maps(rest)])])


def _by_kernel(x: Any, kernel: Any, g: Any, *, strides: Pair, padding: str) -> Any:
    height, width, channels, filters = kernel.shape
    x, (rows, columns) = _padded(x, (height, width), strides, padding)

    def gradient(x: Any, g: Any) -> Any:
        return _product(_windows(x, (height, width), strides, (rows, columns)).T, g.reshape(-1, filters))

    images = _images(rows * columns * height * width * channels)
    (blocks, rest), (g_blocks, g_rest) = _cut(x, images), _cut(g, images)
    parts = [] if rest is None else [gradient(rest, g_rest)]
    if blocks is not None:
        begin = jnp.zeros((height * width * channels, filters), _wide(x.dtype))
        parts.append(lax.scan(lambda sum_, block: (sum_ + gradient(*block), None), begin, (blocks, g_blocks))[0])
    return sum(parts[1:], start=parts[0]).astype(kernel.dtype).reshape(kernel.shape)


def _padded(x: Any, kernel: Pair, strides: Pair, padding: str) -> tuple[Any, Pair]:
    """`x` with its border, and how many windows fit in its rows and columns."""
    sides = lax.padtype_to_pads(x.shape[1:3], kernel, strides, padding.upper())
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    rows, columns = ((size - k) // step + 1 for size, k, step in zip(x.shape[1:3], kernel, strides, strict=True))
    return x, (rows, columns)


def _windows(x: Any, kernel: Pair, strides: Pair, count: Pair) -> Any:
    """One window of x (n, H, W, C) a row: (n * rows * columns, kh * kw * C)."""
    (down, right), (rows, columns) = strides, count
    shifted = [
        x[:, i : i + down * (rows - 1) + 1 : down, j : j + right * (columns - 1) + 1 : right]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return jnp.concatenate(shifted, axis=-1).reshape(-1, math.prod(kernel) * x.shape[-1])


def _images(elements: int) -> int:
    """Of a block, where the windows of one have `elements`."""
    return -(-_BLOCK // elements)


def _cut(x: Any, images: int) -> tuple[Any, Any]:
    """`x` (N, ...) as (blocks, images, ...) and what is left over; None for either that is empty."""
    count = len(x) // images
    whole = x[: count * images].reshape(count, images, *x.shape[1:]) if count else None
    return whole, x[count * images :] if len(x) % images else None


def _wide(dtype: Any) -> Any:
    """In which products are summed: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def _product(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=_wide(a.dtype))
