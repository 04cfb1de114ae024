"""What a few repetitions say: means and paired differences with intervals of 95 %.

Repetition s of one method is paired with repetition s of another: they share seed, order of images, crops and flips,
and the initial values of all parameters that both have. The interval is Student's, of the n differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
_HALVINGS = 200
_FAR = 1e6
"""Above every quantile that is asked for (Student's at 97.5 % with 1 degree of freedom is 12.7)."""


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` values and its interval; without one (infinite) if there is one value alone."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def beyond_zero(self) -> bool:
        """Whether the interval does not hold zero."""
        return self.low > 0 or self.high < 0

    def numbers(self) -> dict[str, float | None]:
        """For JSON, which has no infinity."""
        alone = self.n == 1
        return {"mean": self.mean, "low": None if alone else self.low, "high": None if alone else self.high}


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of `values` and Student's interval around it. Raises ValueError if there are none."""
    if not values:
        raise ValueError("an estimate needs at least one value. Received: none")
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    half = student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The mean of `first` less `second`, pair by pair. Raises ValueError if they are not as many."""
    return estimate([a - b for a, b in zip(first, second, strict=True)])


def student_quantile(degrees: int) -> float:
    """The t that Student's distribution with `degrees` of freedom exceeds in size with probability 1 - CONFIDENCE."""
    low, high = 0.0, _FAR
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < CONFIDENCE else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """The probability that Student's t is between -t and t: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2 == 0:
        term = total = 1.0
        for k in range(1, degrees // 2):
            term *= cosine**2 * (2 * k - 1) / (2 * k)
            total += term
        return sine * total
    term = total = cosine
    for k in range(1, (degrees - 1) // 2):
        term *= cosine**2 * 2 * k / (2 * k + 1)
        total += term
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))
