"""The process that times searches: what it finds is what sorting finds."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.autoencoder import train
from experiments.nearest import Nearest
from experiments.search import BLAS, FLAT, K, SearchFailed, search


def test_what_is_found_is_nearest() -> None:
    rng = np.random.default_rng(0)
    items = np.maximum(rng.normal(size=(700, 24)), 0).astype(np.float32)
    queries = np.maximum(rng.normal(size=(70, 24)), 0).astype(np.float32)
    encoders = {bits: train(items, bits, 0, steps=20) for bits in (16, 64)}
    found = search(items, queries, encoders)
    assert found.seconds.keys() == {FLAT, BLAS, "16", "64"}
    assert all(value > 0 for both in found.seconds.values() for value in both.values())
    assert found.brute("single") == min(found.seconds[FLAT]["single"], found.seconds[BLAS]["single"])
    exact = Nearest(queries, K)
    exact.show(items)
    np.testing.assert_array_equal(found.found["float"], exact.items)
    for bits, encoder in encoders.items():
        apart = (encoder.bits(queries)[:, None] != encoder.bits(items)[None]).sum(axis=2)
        distances = np.take_along_axis(apart, found.found[str(bits)], axis=1)
        np.testing.assert_array_equal(distances, np.sort(apart, axis=1)[:, :K])  # which of equals is the library's


def test_a_process_that_fails_says_why() -> None:
    few = np.zeros((3, 4), np.float32)  # there are no K of them
    with pytest.raises(SearchFailed, match=r"kth|bound"):
        search(few, few, {})
