"""What a number over queries says of other queries: intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spec import draws
from spec.draws import Purpose
from spec.language import tag

F64 = npt.NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Range:
    """A number and its interval of 95 %."""

    mean: float
    low: float
    high: float

    def values(self) -> dict[str, float]:
        """As JSON can hold it."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


class Resamples:
    """The percentile bootstrap over queries (B. Efron, *Bootstrap methods*, Annals of Statistics 7, 1979).

    Of Q queries, Q are drawn with replacement, RESAMPLES times, the same for every number that is asked for; items and
    network stay. Of two methods on the same queries, hand over the differences, or both for a ratio.
    """

    def __init__(self, queries: int, seed: int = 0) -> None:
        drawn = draws.words(seed, Purpose.TEST, queries, items=np.arange(RESAMPLES), tag=tag("bootstrap"))
        chosen = draws.integers(drawn, queries)
        self._times = np.stack([np.bincount(one, minlength=queries) for one in chosen]).astype(np.float64)

    def _means(self, values: F64) -> F64:
        return self._times @ values / len(values)

    def mean(self, values: F64) -> Range:
        """Of values (Q,)."""
        return _range(float(values.mean()), self._means(values))

    def ratio(self, above: F64, below: F64) -> Range:
        """The mean of `above` (Q,) as a fraction of that of `below`, which is above 0 for every resample."""
        return _range(float(above.mean() / below.mean()), self._means(above) / self._means(below))


def _range(value: float, resampled: F64) -> Range:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Range(value, float(low), float(high))


def percent(value: Mapping[str, float]) -> str:
    """The mean of :meth:`Range.values`, in words."""
    return f"{100 * value['mean']:.1f} %"


def interval(value: Mapping[str, float]) -> str:
    """The same with its interval, in per cent, for a cell of a table."""
    return f"{100 * value['mean']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
