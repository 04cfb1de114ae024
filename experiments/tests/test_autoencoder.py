"""The autoencoder: its derivatives by finite differences, and what it learns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from experiments.autoencoder import gradients_of, train


def _case(seed: int = 0, images: int = 6, features: int = 5, bits: int = 4) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"W": (bits, features), "b": (bits,), "V": (features, bits), "c": (features,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}, rng.normal(size=(images, features))


def _differences(function: Callable[[], float], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    found = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        array[place] = kept + step
        above = function()
        array[place] = kept - step
        found[place] = (above - function()) / (2 * step)
        array[place] = kept
    return found


@pytest.mark.parametrize("name", ["V", "c"])
def test_the_decoders_derivatives(name: str) -> None:
    parameters, u = _case()
    expected = _differences(lambda: gradients_of(parameters, u)[0], parameters[name])
    np.testing.assert_allclose(gradients_of(parameters, u)[1][name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["W", "b"])
def test_the_encoders_derivatives_are_as_if_the_units_were_not_rounded(name: str) -> None:
    """dL/dh stays what it is with rounded units; from there on back the units are logistic ones."""
    parameters, u = _case(1)
    rounded = (u @ parameters["W"].T + parameters["b"] > 0) - 0.5
    off = rounded @ parameters["V"].T + parameters["c"] - u
    dh = 2 / off.size * off @ parameters["V"]

    def surrogate() -> float:
        return float((dh / (1 + np.exp(-(u @ parameters["W"].T + parameters["b"])))).sum())

    expected = _differences(surrogate, parameters[name])
    np.testing.assert_allclose(gradients_of(parameters, u)[1][name], expected, rtol=1e-5, atol=1e-7)


def _clusters(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(16, 20)) * 3
    labels = np.arange(800) % 16
    return (centres[labels] + rng.normal(size=(800, 20)) + 100).astype(np.float32), labels


def test_learning_keeps_more_than_random_directions() -> None:
    """What is left of the variance falls far below the part that 16 bits of random directions leave with the best
    linear decoder, and codes of one cluster are alike."""
    vectors, labels = _clusters()
    learned, untrained = train(vectors, 16, 0, steps=1500), train(vectors, 16, 0, steps=0)
    bits = untrained.bits(vectors).astype(np.float64)
    units = (vectors - vectors.mean(axis=0)) / untrained.scale
    with_one = np.concatenate([bits, np.ones((len(bits), 1))], axis=1)
    best = np.linalg.lstsq(with_one, units, rcond=None)[0]
    assert learned.loss < 0.75 * float(((with_one @ best - units) ** 2).mean())
    found = learned.bits(vectors)
    apart = (found[:, None] != found[None]).sum(axis=2)
    same = labels[:, None] == labels[None]
    assert apart[same].mean() < 0.3 * apart[~same].mean()


def test_the_same_seed_gives_the_same_codes_and_another_one_others() -> None:
    vectors, _ = _clusters()
    first, again, other = (train(vectors, 8, seed, steps=50).codes(vectors) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_codes_are_the_bits_packed() -> None:
    vectors, _ = _clusters()
    made = train(vectors, 32, 0, steps=5)
    assert made.codes(vectors).shape == (800, 4)
    np.testing.assert_array_equal(np.unpackbits(made.codes(vectors), axis=1), made.bits(vectors))


def test_a_unit_that_never_moves_does_no_harm() -> None:
    """A dead unit of the layer is 0 for every image."""
    vectors, _ = _clusters()
    vectors[:, 3] = 0
    assert np.isfinite(train(vectors, 8, 0, steps=50).loss)


def test_vectors_that_are_all_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        train(np.ones((10, 3), np.float32), 8, 0)
