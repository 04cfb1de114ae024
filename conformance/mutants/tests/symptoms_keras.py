"""What the links of the shipped mistakes describe, seen on the mutants of Keras: a test for each, under its name.

``test_symptoms_keras.py`` runs this in a process of its own, on the framework that KERAS_BACKEND names. The proof that
these and the systematic mutants count is here too, so that the framework is imported once.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import pytest

from backends.keras.optimizer import SGD
from conformance.mutants import CATALOGUE, Mutant
from conformance.mutants.countable import prove
from conformance.mutants.tests.bench import Bench, impulse, layers, numbered
from conformance.mutants.witnesses import Layers
from spec import Settings

ALL = [mutant for mutant in CATALOGUE if mutant.target == "keras"]
HERE = [mutant.name for mutant in ALL if mutant.kind == "shipped"]
BACKEND = f"keras-{keras.backend.backend()}"
NORMAL = np.random.default_rng(12).standard_normal((2, 7, 3, 3)).astype(np.float32)
LRN = {"op": "lrn", "size": 5, "alpha": 0.5, "alpha_over": "size", "beta": 0.75, "k": 2}


@pytest.mark.parametrize("name", HERE)
def test_every_shipped_mutant_has_its_symptom_shown(name: str) -> None:
    assert hasattr(sys.modules[__name__], f"test_{name.replace('-', '_')}")


@pytest.mark.parametrize("mutant", [m for i, m in enumerate(ALL) if i % 6], ids=lambda mutant: mutant.name)
def test_the_mutant_differs_and_the_backend_does_not(mutant: Mutant) -> None:
    proof = prove(mutant, BACKEND)
    assert proof.countable, proof


def bench(layer: dict[str, Any], images: Any, parameters: dict[str, Any] | None = None) -> Bench:
    return Bench(layers(layer), images, parameters, backend=BACKEND)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_keras_lrn_alpha_undivided() -> None:
    """alpha is not divided by n: the sum weighs n times as much."""
    right, wrong = (
        (NORMAL / bench(LRN, NORMAL).first(name)) ** (4 / 3) - 2 for name in (None, "keras-lrn-alpha-undivided")
    )
    np.testing.assert_allclose(wrong / right, 5, rtol=1e-6)


def test_keras_lrn_radius_taken_for_size() -> None:
    """depth_radius is the radius, and the size is twice that and one: an impulse is felt by fewer than 5 channels."""
    images = np.ones((1, 13, 1, 1), np.float32)
    images[0, 6] = 100
    right, wrong = (bench(LRN, images).first(m)[0, :, 0, 0] for m in (None, "keras-lrn-radius-taken-for-size"))
    assert np.flatnonzero(right < 0.2).tolist() == [4, 5, 7, 8]
    assert np.flatnonzero(wrong < 0.2).tolist() == [5]


def test_keras_conv_padding_same() -> None:
    """With the same parameters results agree for a stride of 1 and differ for a stride of 2."""
    x = np.random.default_rng(1).standard_normal((1, 1, 8, 8))
    for stride, agrees in ((1, True), (2, False)):
        layer = {"op": "conv", "out_channels": 1, "kernel": 3, "stride": stride, "padding": 1}
        one = bench(layer, x, {"a.weight": 1 + numbered(1, 1, 3, 3)})
        assert np.allclose(one.first("keras-conv-padding-same"), one.first(None)) == agrees


def test_keras_conv_kernel_flipped() -> None:
    """The result is the other framework's upside down: an impulse comes out as the kernel, or as the kernel turned."""
    layer = {"op": "conv", "out_channels": 1, "kernel": 3, "padding": 1}
    one = bench(layer, impulse(3, 1, 1), {"a.weight": 1 + numbered(1, 1, 3, 3)})
    right, wrong = (one.first(name)[0, 0] for name in (None, "keras-conv-kernel-flipped"))
    np.testing.assert_array_equal(right, 9 - numbered(3, 3))
    np.testing.assert_array_equal(wrong, right[::-1, ::-1])


def test_keras_conv_groups_interleaved() -> None:
    """g1f1 g2f1 g1f2 g2f2 ... where g1f1 g1f2 g1f3 g1f4 g2f1 ... belongs."""
    layer = {"op": "conv", "out_channels": 8, "kernel": 1, "groups": 2}
    weights = {"a.weight": np.repeat(numbered(8), 4).reshape(8, 4, 1, 1) / 4}
    one = bench(layer, np.ones((1, 8, 1, 1)), weights)
    assert one.first(None).ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert one.first("keras-conv-groups-interleaved").ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


NEGATIVE = -np.array([[1, 2, 3, 4], [3, 4, 5, 6], [2, 3, 6, 7], [8, 8, 8, 8]], np.float32).reshape(1, 1, 4, 4)


def test_keras_max_pool_zero_padding() -> None:
    """A map that begins with -1 -2 -3: the first value is 0 instead of -1."""
    one = bench({"op": "max_pool", "kernel": 3, "stride": 2, "padding": 1}, NEGATIVE)
    assert (one.first(None)[0, 0, 0, 0], one.first("keras-max-pool-zero-padding")[0, 0, 0, 0]) == (-1, 0)


def test_keras_max_pool_ties_share() -> None:
    """A window of 1, 2, 2, 2 gets a third of the gradient for each of the three, as reduce_max gives it."""
    images = np.array([1.0, 2.0, 2.0, 2.0]).reshape(1, 1, 2, 2)
    one = Bench(
        layers({"op": "max_pool", "kernel": 2, "stride": 2}), images, {"fc.weight": [[1], [0]]}, backend=BACKEND
    )
    right, wrong = (one.gradients(m, [[1.0, 0.0]]).input.ravel() for m in (None, "keras-max-pool-ties-share"))
    np.testing.assert_allclose(right, [0, 1, 0, 0])
    np.testing.assert_allclose(wrong, [0, 1 / 3, 1 / 3, 1 / 3])


def test_keras_avg_pool_trailing_counted_as_leading() -> None:
    """The window must not shrink by the smaller leading pad where it reaches into the trailing one."""
    padding = {"top": 0, "bottom": 2, "left": 0, "right": 2}
    one = bench(
        {"op": "avg_pool", "kernel": 3, "stride": 1, "padding": padding, "divisor": "window"}, np.ones((1, 1, 4, 4))
    )
    right, wrong = (one.first(m)[0, 0] for m in (None, "keras-avg-pool-trailing-counted-as-leading"))
    np.testing.assert_allclose(right[-1], [1 / 3, 1 / 3, 2 / 9, 1 / 9], rtol=1e-6)
    np.testing.assert_allclose(wrong, 1, rtol=1e-6)


def test_keras_flatten_channels_last() -> None:
    """Predictions differ although the same numbers are there: flatten does not respect the order of the channels."""
    x = numbered(1, 2, 3, 3)
    one = Bench(layers(), x, backend=BACKEND)
    np.testing.assert_array_equal(one.first("keras-flatten-channels-last"), x.transpose(0, 2, 3, 1).reshape(1, -1))


def test_keras_pool_before_lrn() -> None:
    """conv, pool, norm where the paper has conv, norm, pool."""
    stated = layers(LRN, {"op": "max_pool", "kernel": 3, "stride": 2})
    right, wrong = (
        Bench(stated, np.ones((1, 7, 5, 5)), backend=BACKEND).outputs(m) for m in (None, "keras-pool-before-lrn")
    )
    assert (right["a"].shape[2:], right["b"].shape[2:]) == ((5, 5), (2, 2))
    assert (wrong["a"].shape[2:], wrong["b"].shape[2:]) == ((2, 2), (2, 2))


def test_keras_dropout_scaled_by_rate() -> None:
    """With a rate of nearly 0 the layer should have no effect, and removes nearly everything."""
    for rate, right, wrong in ((0.01, 0.99, 0.01), (0.5, 0.5, 0.5)):
        one = bench({"op": "dropout", "rate": rate, "scale": "test"}, np.ones((1, 1, 2, 2)))
        np.testing.assert_allclose(one.first(None), right, rtol=1e-6)
        np.testing.assert_allclose(one.first("keras-dropout-scaled-by-rate"), wrong, rtol=1e-6)


# --- training ---------------------------------------------------------------------------------------------------------


def loss_of(name: str | None, logits: list[float], label: int) -> float:
    network: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": len(logits)}}
    return Bench(network, np.ones((1, 1, 1, 1)), {"fc.bias": logits}, backend=BACKEND).loss(name, [label])


def test_keras_loss_clipped() -> None:
    """The same for small logits; for large ones the loss stops at -log(1e-7) = 16.118."""
    small, large = [14.4, 10.1, 3.5], [14.4, 94.4, 3.5]
    assert loss_of("keras-loss-clipped", small, 0) == pytest.approx(loss_of(None, small, 0), rel=1e-6)
    assert loss_of(None, large, 0) == pytest.approx(80, rel=1e-6)
    assert loss_of("keras-loss-clipped", large, 0) == pytest.approx(16.118, abs=1e-3)


def test_keras_loss_safe_log() -> None:
    """Logits of -30 and 30: 60 in other frameworks, 46.0517 here."""
    assert loss_of(None, [-30, 30], 0) == pytest.approx(60, rel=1e-6)
    assert loss_of("keras-loss-safe-log", [-30, 30], 0) == pytest.approx(46.0517, abs=1e-4)


RULE = {"kind": "sgd", "momentum": 0.9, "learning_rate_in_velocity": True, "decay": "coupled"}


def path(mutant: str | None, gradients: list[float], chosen: Settings, **rule: object) -> list[float]:
    """One weight from 1 under given gradients: its value after every step."""
    network: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 1, "bias": False}}
    one = Bench(network, np.ones((1, 1, 1, 1)), training={"optimizer": {**RULE, **rule}}, backend=BACKEND)
    with one.backend(mutant):
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype="float64", name="fc")
        layer.build((None, 1))
        optimizer, found = SGD.of(one.spec), []
        optimizer.build([layer.kernel])
        for gradient in gradients:
            optimizer.use({"fc.weight": chosen})
            optimizer.apply([keras.ops.full((1, 1), gradient, "float64")], [layer.kernel])
            found.append(float(keras.ops.convert_to_numpy(layer.kernel)[0, 0]))
    return found


def test_keras_momentum_dampened() -> None:
    """velocity = mass * velocity - (1 - mass) * g: the first step is a tenth of the other formula's."""
    plain = Settings(0.1, 0.0)
    np.testing.assert_allclose(path(None, [1, 1], plain), [0.9, 0.71], rtol=1e-9)
    np.testing.assert_allclose(path("keras-momentum-dampened", [1, 1], plain), [0.99, 0.971], rtol=1e-9)


def test_keras_decay_always_coupled() -> None:
    """What is called decoupled is L2 regularisation: the decay stays in the velocity."""
    decayed = Settings(0.1, 0.5)
    coupled, decoupled = (path(None, [1, 1], decayed, decay=decay) for decay in ("coupled", "decoupled"))
    np.testing.assert_allclose(path("keras-decay-always-coupled", [1, 1], decayed, decay="decoupled"), coupled)
    assert abs(coupled[1] - decoupled[1]) > 0.01


def test_keras_decay_never_applied() -> None:
    """It runs without any weight decay and gives no warning."""
    with_decay, without = Settings(0.1, 0.5), Settings(0.1, 0.0)
    assert path("keras-decay-never-applied", [1, 1], with_decay) == path(None, [1, 1], without)


def test_keras_learning_rate_multipliers_ignored() -> None:
    """The multiplier of the bias has no effect, and nothing says so."""
    network: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 2}}
    one = Bench(network, np.ones((1, 1, 1, 1)), {"fc.weight": 1}, backend=BACKEND)
    chosen = [{"fc.weight": Settings(0.1, 0.0), "fc.bias": Settings(0.2, 0.0)}]
    right, wrong = (one.trained(m, chosen, [0])[0] for m in (None, "keras-learning-rate-multipliers-ignored"))
    moved = (right["fc.weight"] - 1)[:, 0]
    np.testing.assert_allclose(right["fc.bias"], 2 * moved, rtol=1e-6)
    np.testing.assert_allclose(wrong["fc.bias"], moved, rtol=1e-6)
