"""What counts of right and wrong say: intervals of 95 % for an error, and for the difference of two on the same images.

One error: Wilson's score interval (E. B. Wilson, *Probable inference*, JASA 22, 1927), which is never empty and never
leaves 0 .. 1.

Two errors on the same images: Tango's score interval for the difference (T. Tango, *Equivalence test and confidence
interval for the difference in proportions for the paired-sample design*, Statistics in Medicine 17, 1998), and
McNemar's test, exact: of the images on which the two disagree, as many speak for the one as for the other if both are
equally good, so that their number is binomial with probability 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
_Z = 1.959963984540054
"""The quantile of the normal distribution at (1 + CONFIDENCE) / 2."""
_HALVINGS = 60
"""Of an interval of length 2: more than float64 can tell apart."""

Interval = tuple[float, float]


def wilson(wrong: int, n: int) -> Interval:
    """Wilson's interval for an error of `wrong` among `n` images; fractions."""
    p, z2 = wrong / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if wrong == 0 else middle - half, 1.0 if wrong == n else middle + half)


@dataclass(frozen=True)
class Paired:
    """Two methods on the same `images`."""

    images: int
    first_only: int
    """Images on which the first alone is wrong."""
    second_only: int
    """Images on which the second alone is wrong."""
    difference: float
    """The error of the first less that of the second; a fraction."""
    interval: Interval
    """Of the difference."""
    p: float
    """Of McNemar's exact test, two-sided: how often chance alone makes as large a difference."""

    @property
    def told_apart(self) -> bool:
        """Whether chance alone would make as large a difference less often than 1 - CONFIDENCE."""
        return self.p < 1 - CONFIDENCE


def paired(first_wrong: npt.NDArray[np.bool_], second_wrong: npt.NDArray[np.bool_]) -> Paired:
    """Compare two methods by which of the same images (N,) each has wrong."""
    n = len(first_wrong)
    first, second = int((first_wrong & ~second_wrong).sum()), int((second_wrong & ~first_wrong).sum())
    interval = tango(first, second, n)
    return Paired(n, first, second, (first - second) / n, interval, mcnemar(first, second))


def tango(first: int, second: int, n: int) -> Interval:
    """The interval for (first - second) / n, of `n` images those that one of two methods alone has wrong.

    It holds every difference d whose score |first - second - n * d| / sqrt(n * (2 * q + d * (1 - d))) is at most the
    normal quantile, q being the probability, most likely under d, that the second alone is wrong.
    """

    def score(d: float) -> float:
        b = -first - second + (2 * n - first + second) * d
        q = (math.sqrt(max(0.0, b * b + 8 * n * second * d * (1 - d))) - b) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        off = first - second - n * d
        return off / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, off) if off else 0.0

    return _crossing(score, _Z), _crossing(score, -_Z)


def _crossing(score: Callable[[float], float], level: float) -> float:
    """The difference in -1 .. 1 at which `score`, which falls, is `level`; the end where it is not reached."""
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > level else (low, middle)
    return (low + high) / 2


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided p of so many images that one alone of two methods has wrong."""
    m, fewer = first + second, min(first, second)
    ways = [math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) for i in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(way - m * math.log(2)) for way in ways))
