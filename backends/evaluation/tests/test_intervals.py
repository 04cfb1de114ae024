"""Intervals against published values, against their own definition, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backends.evaluation.intervals import mcnemar, paired, tango, wilson


@pytest.mark.parametrize(
    ("wrong", "n", "low", "high"),
    # R. G. Newcombe, Two-sided confidence intervals for the single proportion, Stat. in Medicine 17, 1998, table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_the_published_one(wrong: int, n: int, low: float, high: float) -> None:
    assert wilson(wrong, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - wrong, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_mcnemar_counts_coin_tosses() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == 1
    assert mcnemar(0, 6) == mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)


def score(d: float, first: int, second: int, n: int) -> float:
    """Tango's score with the likelihood maximised by search, not by its formula."""
    q = np.linspace(max(0.0, -d), (1 - d) / 2, 200_001)[1:-1]
    likelihood = second * np.log(q) + (n - first - second) * np.log1p(-d - 2 * q) + first * np.log(q + d)
    best = q[likelihood.argmax()]
    return (first - second - n * d) / math.sqrt(n * (2 * best + d * (1 - d)))


@pytest.mark.parametrize(("first", "second", "n"), [(25, 13, 200), (12, 2, 50), (40, 41, 2000), (3, 30, 60)])
def test_tango_is_where_the_score_is_the_quantile(first: int, second: int, n: int) -> None:
    low, high = tango(first, second, n)
    assert score(low, first, second, n) == pytest.approx(1.959964, abs=2e-3)
    assert score(high, first, second, n) == pytest.approx(-1.959964, abs=2e-3)
    assert low < (first - second) / n < high
    assert tango(second, first, n) == pytest.approx((-high, -low), abs=1e-12)


def test_no_disagreement_does_not_mean_no_doubt() -> None:
    z2 = 1.959963984540054**2
    assert tango(0, 0, 100) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-9)
    assert tango(0, 100, 100)[0] == pytest.approx(-1)


def test_the_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, n, held, p = np.random.default_rng(0), 120, 0, (0.12, 0.05)
    for _ in range(400):
        u = rng.random(n)
        low, high = tango(int((u < p[0]).sum()), int((u > 1 - p[1]).sum()), n)
        held += low <= p[0] - p[1] <= high
    assert 0.92 < held / 400 < 0.98


def test_paired_counts_the_images_on_which_two_disagree() -> None:
    first = np.array([1, 1, 1, 0, 0, 1, 0, 1], bool)
    second = np.array([1, 0, 0, 1, 0, 0, 0, 0], bool)
    found = paired(first, second)
    assert (found.images, found.first_only, found.second_only, found.difference) == (8, 4, 1, 3 / 8)
    assert found.p == pytest.approx(12 / 32)
    assert not found.told_apart
    assert paired(np.ones(20, bool), np.zeros(20, bool)).told_apart
