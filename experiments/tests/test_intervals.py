"""Estimates of a few values against published quantiles and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.intervals import difference, estimate, student_quantile

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042}
"""Student's t at 97.5 %, from the tables in every textbook."""


@pytest.mark.parametrize("degrees", TABLE)
def test_the_quantile_is_that_of_the_tables(degrees: int) -> None:
    assert student_quantile(degrees) == pytest.approx(TABLE[degrees], abs=5e-4)


def test_the_interval_holds_the_mean_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    held = [found.low <= 3 <= found.high for found in (estimate(rng.normal(3, 2, 4).tolist()) for _ in range(2000))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_one_value_tells_no_interval() -> None:
    found = estimate([0.2])
    assert (found.mean, found.low, found.high, found.beyond_zero) == (0.2, -math.inf, math.inf, False)
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=8))
def test_a_difference_is_the_estimate_of_the_differences(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found, turned = difference(first, second), difference(second, first)
    assert found.mean == pytest.approx(np.mean(first) - np.mean(second), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    assert found.low <= found.mean <= found.high


def test_pairs_are_paired() -> None:
    """Where every pair differs by the same, the interval is a point, however far the pairs are apart."""
    found = difference([1.5, 2.5, 9.5], [1.0, 2.0, 9.0])
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)
    assert found.beyond_zero
