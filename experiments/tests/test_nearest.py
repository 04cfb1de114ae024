"""Nearest neighbours beside sorting everything, and intervals beside what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments import nearest
from experiments.nearest import Nearest, shares
from experiments.resampling import Resamples


@given(st.data())
def test_the_nearest_are_those_of_a_stable_sort_of_all_distances(data: st.DataObject) -> None:
    """Small whole numbers, so that many distances are equal and all are exact; shown in pieces of any size."""
    features = data.draw(st.integers(1, 3))
    whole = st.integers(-2, 2)
    queries = data.draw(arrays(np.float32, (data.draw(st.integers(1, 4)), features), elements=whole))
    items = data.draw(arrays(np.float32, (data.draw(st.integers(1, 30)), features), elements=whole))
    k = data.draw(st.integers(1, 12))
    found, start = Nearest(queries, k), 0
    while start < len(items):
        step = data.draw(st.integers(1, 12))
        found.show(items[start : start + step])
        start += step
    every = ((queries[:, None] - items[None]) ** 2).sum(axis=2)
    expected = every.argsort(axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.items, expected)
    np.testing.assert_array_equal(found.squares, np.take_along_axis(every, expected, axis=1))


def test_items_are_taken_in_pieces_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(5, 7)), rng.normal(size=(100, 7))
    whole, pieces = Nearest(queries, 9), Nearest(queries, 9)
    whole.show(items)
    monkeypatch.setattr(nearest, "_ITEMS", 13)
    pieces.show(items)
    np.testing.assert_array_equal(whole.items, pieces.items)


def test_shares_count_the_querys_class() -> None:
    labels = np.array([0, 1, 1, 2])
    found = np.array([[1, 2, 0], [3, 0, 1]])
    np.testing.assert_array_equal(shares(found, labels, np.array([1, 0]), 2), [1.0, 0.5])
    np.testing.assert_allclose(shares(found, labels, np.array([1, 0]), 3), [2 / 3, 1 / 3])


def test_the_interval_of_a_mean_is_that_of_large_samples() -> None:
    """Of 400 values the bootstrap's interval and the normal distribution's differ by a few percent of their width."""
    values = np.random.default_rng(3).random(400)
    found = Resamples(400).mean(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.mean == values.mean()
    assert abs(found.low - (values.mean() - half)) < 0.15 * half
    assert abs(found.high - (values.mean() + half)) < 0.15 * half


def test_paired_methods_are_resampled_together() -> None:
    values = np.random.default_rng(4).random(50) + 0.5
    found = Resamples(50).ratio(0.9 * values, values)
    np.testing.assert_allclose([found.mean, found.low, found.high], 0.9)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(5), 0
    resamples = Resamples(60)
    for _ in range(200):
        found = resamples.mean(rng.binomial(10, 0.7, 60) / 10)
        inside += found.low <= 0.7 <= found.high
    assert 178 <= inside <= 198  # 95 % of 200 is 190; three deviations, and the bootstrap of 60 is a little too narrow


def test_what_never_varies_has_an_interval_without_width() -> None:
    found = Resamples(20).mean(np.full(20, 0.25))
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
