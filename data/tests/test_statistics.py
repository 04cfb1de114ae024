"""Mean and covariance against exact fractions, components against LAPACK."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data import statistics as module
from data.compiled import compiled_loops
from data.errors import DataError
from data.statistics import Statistics, compute_statistics, principal_components
from data.tests.builders import pixels


@hypothesis_settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 5), size=st.integers(1, 4), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_mean_and_covariance_are_the_exact_ones_rounded_once(count: int, size: int, channels: int, seed: int) -> None:
    images = pixels(count, size, channels, seed)
    received = compute_statistics(images)
    n = count * size * size
    colors = [[int(v) for v in color] for color in images.reshape(n, channels)]
    mean = [Fraction(sum(color[c] for color in colors), n) for c in range(channels)]
    assert received.channel_mean.tolist() == [float(value) for value in mean]
    for i in range(channels):
        for j in range(channels):
            exact = sum((color[i] - mean[i]) * (color[j] - mean[j]) for color in colors) / n
            assert received.covariance[i, j] == float(exact)
    for c, y, x in np.ndindex(channels, size, size):
        assert received.mean_image[c, y, x] == float(Fraction(int(images[:, y, x, c].astype(int).sum()), count))


@pytest.mark.parametrize("count", [0, 1, 63, 65, 1000, 5_000_000])
def test_compiled_sums_of_products_are_exact(count: int) -> None:
    loops = compiled_loops()
    if loops is None:
        pytest.skip("no compiled loops on this machine")
    drawn = np.random.default_rng(count).integers(0, 256, (min(count, 1000), 3), np.uint8)
    many = np.full((count, 3), 255, np.uint8) if count > 1000 else drawn
    wide = many.astype(np.int64)
    np.testing.assert_array_equal(loops.colour_products(many), wide.T @ wide)
    assert loops.colour_products(many[::-1]).tolist() == (wide.T @ wide).tolist()


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(50, 6, 3)
    seen: list[tuple[int, int]] = []
    whole = compute_statistics(images)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 6 * 6 * 3 * 7)
    parts = compute_statistics(images, progress=lambda *count: seen.append(count))
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(array, parts.arrays()[name])
    assert seen == [*((done, 50) for done in range(7, 50, 7)), (50, 50)]


def test_white_images_do_not_overflow() -> None:
    received = compute_statistics(np.full((3000, 4, 4, 3), 255, np.uint8))
    assert (received.mean_image == 255).all()
    assert (received.covariance == 0).all()


@hypothesis_settings(max_examples=60, deadline=None)
@given(size=st.sampled_from([1, 2, 3, 5]), seed=st.integers(0, 10_000), rank=st.integers(1, 5))
def test_components_are_those_of_lapack(size: int, seed: int, rank: int) -> None:
    factor = np.random.default_rng(seed).normal(size=(size, rank)) * 60
    covariance = factor @ factor.T
    values, vectors = principal_components(covariance)
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(covariance)[::-1].clip(0), atol=1e-13 * scale * size)
    assert (np.diff(values) <= 0).all()
    assert (values >= 0).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(size), atol=1e-13)
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, covariance, atol=1e-12 * scale)
    for column in vectors.T:
        assert column[np.argmax(np.abs(column))] > 0


def test_grey_in_three_channels_varies_along_grey_alone() -> None:
    received = compute_statistics(np.repeat(pixels(5, 4, 1), 3, axis=-1))
    np.testing.assert_allclose(received.eigenvectors[:, 0], np.full(3, 3**-0.5), rtol=1e-15)
    np.testing.assert_allclose(received.eigenvalues / received.eigenvalues[0], [1, 0, 0], atol=1e-15)


def test_the_published_components_of_imagenet_come_back() -> None:
    """cuda-convnet2's make-data/input_meta: standard deviations on 0..255 and components of ImageNet's colours."""
    deviations = np.array([121.78006099, 37.09388853, 19.72083305])
    vectors = np.array(
        [
            [0.56351045, 0.71257945, 0.41795513],
            [0.57618440, 0.02354167, -0.81698062],
            [0.59200296, -0.70119634, 0.39731118],
        ]
    )
    values, received = principal_components(vectors @ np.diag(deviations**2) @ vectors.T)
    np.testing.assert_allclose(np.sqrt(values), deviations, rtol=1e-6)
    signs = np.sign(vectors[np.argmax(np.abs(vectors), axis=0), range(3)])
    np.testing.assert_allclose(received, vectors * signs, atol=1e-6)


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="at least one training image"):
        compute_statistics(np.empty((0, 4, 4, 3), np.uint8))


# --- in a checkpoint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_come_back(channels: int) -> None:
    known = compute_statistics(pixels(5, 4, channels))
    again = Statistics.from_arrays(known.arrays())
    assert list(known.arrays()) == ["mean_image", "channel_mean", "covariance", "eigenvalues", "eigenvectors"]
    for name, array in known.arrays().items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(again.arrays()[name], array)


@pytest.mark.parametrize("name", ["mean_image", "channel_mean", "covariance", "eigenvalues", "eigenvectors"])
@pytest.mark.parametrize("damage", ["missing", "float32", "shape", "nan", "scalar"])
def test_damaged_arrays_are_refused(name: str, damage: str) -> None:
    arrays = compute_statistics(pixels(5, 4, 3)).arrays()
    original = arrays.pop(name)
    others: dict[str, Any] = {
        "float32": original.astype(np.float32),
        "shape": original[:-1],
        "nan": original * np.nan,
        "scalar": np.float64(1),
    }
    if damage != "missing":
        arrays[name] = others[damage]
    with pytest.raises(DataError, match="finite float64 of shape|Missing: " + name):
        Statistics.from_arrays(arrays)


def test_negative_variances_are_refused() -> None:
    arrays = compute_statistics(pixels(5, 4, 3)).arrays()
    with pytest.raises(DataError, match="must not be negative"):
        Statistics.from_arrays({**arrays, "eigenvalues": -arrays["eigenvalues"]})
