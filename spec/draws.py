"""Randomness as data: every random choice is a pure function of (seed, purpose, tag, epoch, item).

One counter-based generator, Philox4x32-10 (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11;
the published known-answer vectors of Random123 are tests), and four transforms of our own. The counter is
``(block, item, epoch, tag)`` and the key ``(seed, purpose)``, 32 bits each; word ``j`` of an item is lane ``j % 4`` of
block ``j // 4``. The transforms use integer arithmetic and the IEEE operations + - * / sqrt alone, which are
correctly rounded everywhere, so that the same draw is the same bits on every machine.
Section "Draws" of ``README.md`` is normative.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from spec.language import tag as tag

U32 = npt.NDArray[np.uint32]
F64 = npt.NDArray[np.float64]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""PHILOX_M4x32_0 and _1 of Random123's philox.h."""
WEYL = (0x9E3779B9, 0xBB67AE85)
"""PHILOX_W32_0 and _1: the golden ratio and sqrt(3) - 1, in 32 bits."""

_MASK = 0xFFFFFFFF
_CHUNK = 1 << 15
"""Blocks computed at a time, so that the intermediate arrays stay in cache."""


class Purpose(IntEnum):
    """What a draw is for: the second half of the key, so that no two purposes share a word."""

    INIT = 1
    """Initial parameters. Tag: the parameter's name; item 0; word j is element j in canonical (C) order."""
    SPLIT = 2
    """Which images are held out of a folder without a split. Item: the image."""
    SHUFFLE = 3
    """The order of an epoch. Item: the image."""
    CROP = 4
    """Words 0 and 1: the row and the column of the crop. Item: the image // shared_by."""
    FLIP = 5
    """Word 0. Item: the image // shared_by."""
    COLOR = 6
    """Words 0 to 2: the components, largest first. Item: the image."""
    DROPOUT = 7
    """Tag: the layer's name; item: the image; word j is unit j in canonical order."""
    TEST = 8
    """Inputs of tests and benchmarks."""


def philox(counter: tuple[U32, U32, U32, U32], key: tuple[int, int]) -> tuple[U32, U32, U32, U32]:
    """Philox4x32-10 of equally shaped counter words. Returns the four output words, uint32, in that shape."""
    c0, c1, c2, c3 = (word.astype(np.uint64) for word in counter)
    k0, k1 = key
    low, half = np.uint64(_MASK), np.uint64(32)
    m0, m1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
    for _ in range(ROUNDS):
        product0, product1 = c0 * m0, c2 * m1
        c0 = (product1 >> half) ^ c1 ^ np.uint64(k0)
        c1 = product1 & low
        c2 = (product0 >> half) ^ c3 ^ np.uint64(k1)
        c3 = product0 & low
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return c0.astype(np.uint32), c1.astype(np.uint32), c2.astype(np.uint32), c3.astype(np.uint32)


def words(seed: int, purpose: Purpose, count: int, *, items: npt.ArrayLike = 0, epoch: int = 0, tag: int = 0) -> U32:
    """The first `count` words of each item.

    seed: 0 .. 2**32 - 1. items: whole numbers, any shape S. Returns uint32 of shape S + (count,).
    Raises ValueError if a number does not fit its 32 bits of counter or key.
    """
    item = np.asarray(items)
    for what, low, high in (
        ("seed", seed, seed),
        ("epoch", epoch, epoch),
        ("item", item.min(initial=0), item.max(initial=0)),
    ):
        if low < 0 or high > _MASK:
            raise ValueError(f"the {what} of a draw must be 0 .. 2**32 - 1. Received: {low if low < 0 else high}")
    blocks = -(-count // 4)
    flat = item.astype(np.uint32).reshape(-1)
    out = np.empty((flat.size, blocks, 4), np.uint32)
    key = (seed, int(purpose))
    for first in range(0, flat.size, max(1, _CHUNK // max(blocks, 1))):
        rows = flat[first : first + max(1, _CHUNK // max(blocks, 1))]
        for start in range(0, blocks, _CHUNK):
            block = np.arange(start, min(start + _CHUNK, blocks), dtype=np.uint32)
            shape = (rows.size, block.size)
            lanes = philox(
                (
                    np.broadcast_to(block, shape),
                    np.broadcast_to(rows[:, None], shape),
                    np.full(shape, epoch, np.uint32),
                    np.full(shape, tag, np.uint32),
                ),
                key,
            )
            for lane, word in enumerate(lanes):
                out[first : first + rows.size, start : start + block.size, lane] = word
    return out.reshape(flat.size, blocks * 4)[:, :count].reshape(*item.shape, count)


# --- transforms: one word in, one value out ---------------------------------------------------------------------------


def integers(word: U32, n: int) -> npt.NDArray[np.int64]:
    """0 .. n - 1: floor(word * n / 2**32). n <= 2**32."""
    return ((word.astype(np.uint64) * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


def chance(word: U32, probability: float) -> npt.NDArray[np.bool_]:
    """True with `probability`: word < floor(probability * 2**32)."""
    return word.astype(np.uint64) < np.uint64(int(probability * 2**32))


def uniform(word: U32) -> F64:
    """(word + 1/2) / 2**32, strictly between 0 and 1, exact in float64."""
    return (word.astype(np.float64) + 0.5) * 2.0**-32


def normal(word: U32) -> F64:
    """The standard normal quantile of :func:`uniform`, by Wichura's AS 241 (PPND16, Applied Statistics 37, 1988)."""
    return normal_quantile(uniform(word))


# Coefficients of PPND16, highest power first: (numerator, denominator) of the centre, the near tail and the far tail.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
     1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
     687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_NEAR = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


def _polynomial(coefficients: tuple[float, ...], x: F64) -> F64:
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result *= x
        result += coefficient
    return result


def _log(x: F64) -> F64:
    """Natural logarithm in (0, 1): 2 artanh((m - 1) / (m + 1)) + e ln 2, with m in [sqrt(1/2), sqrt(2))."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    exponent = exponent - small
    z = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial(tuple(1.0 / n for n in range(23, 0, -2)), z * z)
    return 2.0 * z * series + exponent * 0.6931471805599453


def normal_quantile(p: F64) -> F64:
    """The standard normal quantile of p in (0, 1), relative error about 1e-15."""
    q = p - 0.5
    r = 0.180625 - q * q
    result: F64 = q * _polynomial(_CENTRE[0], r) / _polynomial(_CENTRE[1], r)
    tail = np.abs(q) > 0.425
    if tail.any():
        qt = q[tail]
        r = np.sqrt(-_log(np.where(qt < 0, p[tail], 1.0 - p[tail])))
        near = _polynomial(_NEAR[0], r - 1.6) / _polynomial(_NEAR[1], r - 1.6)
        far = _polynomial(_FAR[0], r - 5.0) / _polynomial(_FAR[1], r - 5.0)
        result[tail] = np.where(qt < 0, -1.0, 1.0) * np.where(r <= 5.0, near, far)
    return result


# --- draws with a name ------------------------------------------------------------------------------------------------


def permutation(seed: int, purpose: Purpose, n: int, *, epoch: int = 0) -> npt.NDArray[np.int64]:
    """The numbers 0 .. n - 1 in the order of their 64-bit draws (word 0 high, word 1 low; ties by number)."""
    drawn = words(seed, purpose, 2, items=np.arange(n), epoch=epoch).astype(np.uint64)
    return np.argsort((drawn[:, 0] << np.uint64(32)) | drawn[:, 1], kind="stable")


def dropout_mask(
    seed: int, layer: str, rate: float, shape: tuple[int, ...], *, images: npt.ArrayLike, epoch: int
) -> npt.NDArray[np.bool_]:
    """Which units of dropout layer `layer` are kept for `images` (N,) in `epoch`.

    shape: the layer's output without the batch, canonical. Returns bool (N, *shape), True = kept, with
    probability 1 - rate.
    """
    items = np.asarray(images)
    units = int(np.prod(shape))
    drawn = words(seed, Purpose.DROPOUT, units, items=items, epoch=epoch, tag=tag(layer))
    return (~chance(drawn, rate)).reshape(*items.shape, *shape)
