"""Exact nearest neighbours, and how many of them are of the query's class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_ITEMS = 4096
"""Shown at a time: queries x items distances are held."""


class Nearest:
    """The `k` items nearest to each query by Euclidean distance, of all that have been shown; of equals, the earlier.

    Distances are worked out in float64 from the products, |q|^2 - 2 q x + |x|^2. Of codes of -1 and 1 they are four
    times the number of bits that differ, exactly.
    """

    def __init__(self, queries: npt.NDArray[Any], k: int) -> None:
        """queries: (Q, F)."""
        self._queries = np.asarray(queries, np.float64)
        self._norms = (self._queries**2).sum(axis=1)
        self._k, self._shown = k, 0
        self.squares: F64 = np.empty((len(queries), 0))
        """(Q, k) squared distances, the smallest first; fewer columns as long as fewer items were shown."""
        self.items: I64 = np.empty((len(queries), 0), np.int64)
        """(Q, k) which item each is of, counted from 0 in the order in which they were shown."""

    def show(self, items: npt.NDArray[Any]) -> None:
        """items: (N, F)."""
        for start in range(0, len(items), _ITEMS):
            self._show(np.asarray(items[start : start + _ITEMS], np.float64))

    def _show(self, items: F64) -> None:
        squares = self._norms[:, None] - 2 * (self._queries @ items.T) + (items**2).sum(axis=1)
        numbers = np.arange(self._shown, self._shown + len(items))
        self._shown += len(items)
        squares = np.concatenate([self.squares, squares], axis=1)
        numbers = np.concatenate([self.items, np.broadcast_to(numbers, (len(squares), len(numbers)))], axis=1)
        kept = _smallest(squares, self._k)
        squares, numbers = (np.take_along_axis(array, kept, axis=1) for array in (squares, numbers))
        order = np.argsort(squares, axis=1, kind="stable")
        self.squares, self.items = (np.take_along_axis(array, order, axis=1) for array in (squares, numbers))


def _smallest(values: F64, k: int) -> I64:
    """The places of the `k` smallest of each row, in the order of places; of equals, the first."""
    rows, columns = values.shape
    if columns <= k:
        return np.broadcast_to(np.arange(columns), (rows, columns))
    last = np.partition(values, k - 1, axis=1)[:, k - 1 : k]
    less, equal = values < last, values == last
    missing = k - less.sum(axis=1, keepdims=True)
    return np.nonzero(less | (equal & (equal.cumsum(axis=1) <= missing)))[1].reshape(rows, k)


def shares(found: I64, labels: I64, query_labels: I64, k: int) -> F64:
    """Precision at `k` of each query (Q,): of the first `k` items `found` (Q, at least k), the share of its class."""
    right = labels[found[:, :k]] == query_labels[:, None]
    return np.asarray(right.mean(axis=1), np.float64)
