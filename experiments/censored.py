"""How many times longer one takes than another, where some runs end before they arrive.

A run that has not arrived after E epochs takes more than E: it is not left out, and E is not taken for its time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from experiments.intervals import CONFIDENCE, estimate


@dataclass(frozen=True)
class Time:
    """How long a run took to arrive; if it is `censored`, it had not arrived by then."""

    epochs: float
    censored: bool = False

    @property
    def longest(self) -> float:
        """What it can be at most."""
        return math.inf if self.censored else self.epochs

    def __str__(self) -> str:
        return f"> {self.epochs:g}" if self.censored else f"{self.epochs:.2f}"


@dataclass(frozen=True)
class Ratio:
    """A ratio, its interval, and how often such an interval holds the true one; infinite where nothing bounds it."""

    low: float
    """Of the interval; `smallest` and `largest` bound the ratio itself, and are equal if nothing is censored."""
    smallest: float
    largest: float
    high: float
    confidence: float
    """0: there is no interval."""

    @property
    def said(self) -> str:
        """The ratio in words."""
        if self.smallest == self.largest:
            return f"{self.smallest:.2g} times"
        if math.isinf(self.largest):
            return f"at least {self.smallest:.2g} times" if self.smallest else "a number of times not known"
        between = f"between {self.smallest:.2g} and {self.largest:.2g} times"
        return between if self.smallest else f"at most {self.largest:.2g} times"


def ratio(slow: Sequence[Time], fast: Sequence[Time]) -> Ratio:
    """How many times longer `slow` takes than `fast`, run by run, of the runs that share a seed.

    If all arrive: the geometric mean, and Student's interval of the logarithms. Otherwise the median of the runs, as
    far as it is known, and the interval from the smallest ratio that is possible to the largest: a median is outside
    of all n values with probability 2 ** (1 - n). Raises ValueError if they are not as many, or none.
    """
    pairs = list(zip(slow, fast, strict=True))
    if not any(time.censored for pair in pairs for time in pair):
        found = estimate([math.log(a.epochs / b.epochs) for a, b in pairs])
        middle = math.exp(found.mean)
        if found.n == 1:
            return Ratio(0, middle, middle, math.inf, 0)
        return Ratio(math.exp(found.low), middle, middle, math.exp(found.high), CONFIDENCE)
    lows = [a.epochs / b.longest for a, b in pairs]
    highs = [a.longest / b.epochs for a, b in pairs]
    confidence = 1 - 2.0 ** (1 - len(pairs))
    alone = len(pairs) == 1
    return Ratio(0 if alone else min(lows), median(lows), median(highs), math.inf if alone else max(highs), confidence)


def arrival(errors: Sequence[float], target: float, start: float) -> Time:
    """When errors after epochs 1, 2, ... first are at most `target`, on straight lines between them from `start` at 0.

    Raises ValueError unless there is one at least, and `start` is above `target`.
    """
    if not errors or start <= target:
        raise ValueError(f"an arrival needs errors that begin above {target}. Received: {start}, then {list(errors)}")
    before = start
    for epoch, error in enumerate(errors):
        if error <= target:
            return Time(epoch + (before - target) / (before - error))
        before = error
    return Time(float(len(errors)), censored=True)
