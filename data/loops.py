"""Loops over pixels that Numba compiles: Pillow's resampling to the bit, sums over images, copies past the caches.

Importing this module raises ImportError where Numba is not installed.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from data.compiled import compiled
from data.dataset import I64, U8

U32 = npt.NDArray[np.uint32]

_BITS = 22
"""Of a weight behind the point: Pillow's PRECISION_BITS for 8-bit channels, 32 - 8 - 2."""
_WIDE = 32
"""Bytes that are written at once."""
_ROWS = 32
"""Rows that are filtered side by side, so that a vector holds the same place of several rows."""


def resampled(pixels: U8, size: int, box: tuple[float, float, float, float]) -> U8:
    """`box` (left, top, right, bottom) of `pixels` (H, W, 4) at `size` x `size`: uint8 (size, size, 3).

    The bits are those of ``resize((size, H), BILINEAR, box=(left, 0, right, H))`` and then ``resize((size, size),
    BILINEAR, box=(0, top, size, bottom))`` of Pillow (src/libImaging/Resample.c), the fourth byte of a pixel left out:
    places in float32, weights in float64 and rounded to whole numbers, sums of whole numbers, rounded half up.
    """
    out = np.empty((size, size, 3), np.uint8)
    sides = (np.float32(side) for side in box)
    _resample(pixels.view(np.uint32)[..., 0], out, *sides)
    return out


@compiled
def _weights(side: int, start: Any, end: Any, size: int) -> tuple[Any, Any, Any]:
    """First place, number of places (size,) and weights (size, taps) of every place of the result."""
    scale = np.float64(end - start) / size  # the difference in float32, as Pillow's is
    support = max(scale, 1.0)
    nearer = 1.0 / support
    first, count = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.zeros((size, ceil(support) * 2 + 1), np.uint32)
    raw = np.empty(weights.shape[1])
    for place in range(size):
        centre = np.float64(start) + (place + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), side)
        total = 0.0
        for i in range(high - low):
            raw[i] = max(1.0 - abs((i + low - centre + 0.5) * nearer), 0.0)
            total += raw[i]
        for i in range(high - low):
            weights[place, i] = np.uint32(0.5 + raw[i] / total * (1 << _BITS))
        first[place], count[place] = low, high - low
    return first, count, weights


@compiled
def _resample(pixels: U32, out: U8, left: Any, top: Any, right: Any, bottom: Any) -> None:
    height, width = pixels.shape
    narrow = np.empty((height, len(out)), np.uint32)
    _narrow(pixels, narrow, *_weights(width, left, right, len(out)))
    _shorten(narrow.view(np.uint8), out, *_weights(height, top, bottom, len(out)))


@compiled
def _narrow(pixels: U32, narrow: U32, first: Any, count: Any, weights: Any) -> None:
    """The width filtered: `narrow` (H, size), of pixels that are four bytes."""
    height, start = len(pixels), first[0]
    bits, half, byte = np.uint32(_BITS), np.uint32(1 << (_BITS - 1)), np.uint32(255)
    second, third = np.uint32(8), np.uint32(16)
    columns = np.zeros((first[-1] + count[-1] - start, 3 * _ROWS), np.uint16)  # the rows' reds, greens, blues
    total, whole = np.empty(3 * _ROWS, np.uint32), np.zeros(_ROWS, np.uint32)
    for row in range(0, height, _ROWS):
        rows = min(_ROWS, height - row)
        for x in range(len(columns)):
            column = columns[x]
            for y in range(rows):
                whole[y] = pixels[row + y, start + x]
            for y in range(_ROWS):
                column[y] = whole[y] & byte
                column[_ROWS + y] = (whole[y] >> second) & byte
                column[2 * _ROWS + y] = (whole[y] >> third) & byte
        for place in range(len(first)):
            total[:] = half
            for i in range(count[place]):
                weight, column = weights[place, i], columns[first[place] - start + i]
                for y in range(3 * _ROWS):
                    total[y] += np.uint32(column[y]) * weight
            for y in range(_ROWS):
                red, green, blue = total[y] >> bits, total[_ROWS + y] >> bits, total[2 * _ROWS + y] >> bits
                whole[y] = red | (green << second) | (blue << third)
            for y in range(rows):
                narrow[row + y, place] = whole[y]


@compiled
def _shorten(narrow: U8, out: U8, first: Any, count: Any, weights: Any) -> None:
    """The height filtered, and of every four bytes (H, 4 size) three kept."""
    bits, half = np.uint32(_BITS), np.uint32(1 << (_BITS - 1))
    total = np.empty(narrow.shape[1], np.uint32)
    for place in range(len(out)):
        for x in range(len(total)):
            total[x] = half
        for i in range(count[place]):
            weight, row = weights[place, i], narrow[first[place] + i]
            for x in range(len(total)):
                total[x] += np.uint32(row[x]) * weight
        for x in range(out.shape[1]):
            out[place, x, 0] = np.uint8(total[4 * x] >> bits)
            out[place, x, 1] = np.uint8(total[4 * x + 1] >> bits)
            out[place, x, 2] = np.uint8(total[4 * x + 2] >> bits)


_LANES = 64
"""Sums that are kept side by side."""
_PIXELS = _LANES << 16
"""So many pixels add at most 2**16 squares of bytes to a sum, which stays below 2**32."""


def colour_products(pixels: U8) -> npt.NDArray[np.int64]:
    """The sums of products of two channels over `pixels` (n, 3): int64 (3, 3)."""
    found = np.zeros((3, 3), np.int64)
    _add_products(pixels, found)
    return np.triu(found) + np.triu(found, 1).T


@compiled
def _add_products(pixels: U8, products: Any) -> None:
    red, green, blue = np.zeros(_LANES, np.uint32), np.zeros(_LANES, np.uint32), np.zeros(_LANES, np.uint32)
    for start in range(0, len(pixels), _PIXELS):
        part = pixels[start : start + _PIXELS]
        sums = np.zeros((6, _LANES), np.uint32)
        for first in range(0, len(part), _LANES):
            few = part[first : first + _LANES]
            red[:], green[:], blue[:] = 0, 0, 0
            for i in range(len(few)):
                red[i], green[i], blue[i] = few[i, 0], few[i, 1], few[i, 2]
            for i in range(_LANES):
                r, g, b = red[i], green[i], blue[i]
                sums[0, i] += r * r
                sums[1, i] += r * g
                sums[2, i] += r * b
                sums[3, i] += g * g
                sums[4, i] += g * b
                sums[5, i] += b * b
        pair = 0
        for one in range(3):
            for other in range(one, 3):
                for i in range(_LANES):
                    products[one, other] += sums[pair, i]
                pair += 1


# --- copies -----------------------------------------------------------------------------------------------------------


def copy_rows(source: U8, rows: I64, out: U8, places: I64) -> None:
    """``out[places] = source[rows]``, both contiguous, past the caches.

    A batch is more than the caches hold, and what is written through them is read from memory first. glibc's memcpy
    goes past them only above a threshold, which is larger than an image.
    """
    size = int(np.prod(source.shape[1:]))
    _copy_rows(source.reshape(-1, size), rows, out.reshape(-1, size), places)


@intrinsic  # type: ignore[misc]
def _stream(typing: Any, to: Any, of: Any, count: Any) -> Any:
    """Copy `count` times _WIDE bytes from address `of` to address `to`, a multiple of _WIDE, past the caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), _WIDE // 8)
        target, origin = (builder.inttoptr(address, vector.as_pointer()) for address in arguments[:2])
        nontemporal = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with cgutils.for_range(builder, arguments[2]) as loop:
            value = builder.load(builder.gep(origin, [loop.index]), align=1)
            store = builder.store(value, builder.gep(target, [loop.index]), align=_WIDE)
            store.set_metadata("nontemporal", nontemporal)
        fence = builder.module.declare_intrinsic("llvm.x86.sse.sfence", (), ir.FunctionType(ir.VoidType(), []))
        builder.call(fence, [])  # before anybody is told that the copy is there
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp), generate


@compiled
def _copy_rows(source: U8, rows: I64, out: U8, places: I64) -> None:
    size = source.shape[1]
    origin, target = np.uintp(source.ctypes.data), np.uintp(out.ctypes.data)
    for i in range(len(rows)):
        of, to = origin + np.uintp(rows[i] * size), target + np.uintp(places[i] * size)
        before = min((_WIDE - np.intp(to % np.uintp(_WIDE))) % _WIDE, size)
        count = (size - before) // _WIDE
        row, place = source[rows[i]], out[places[i]]
        for x in range(before):
            place[x] = row[x]
        _stream(to + np.uintp(before), of + np.uintp(before), count)
        for x in range(before + count * _WIDE, size):
            place[x] = row[x]
