"""What ``test_frameworks.py`` runs once for each framework, in a process of its own: Keras cannot change its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import backends.keras
from backends import cli
from backends.base import Backend, Unsupported, tally
from backends.keras import layers, model, normalization
from backends.keras.augmentation import augmented
from backends.keras.backend import KerasBackend
from backends.numpy import NumpyBackend
from backends.tests import augmentations, diverging, small
from spec import Place, Settings, Spec, dropout_shapes, geometry, initial_parameters, settings

FRAMEWORK = keras.backend.backend()

DROPPED: dict[str, Any] = {
    "fc4": {"op": "dense", "out_features": 6, "groups": 2},
    "drop4": {"op": "dropout", "rate": 0.5, "scale": "test"},
    "fc5": {"op": "dense", "out_features": 7, "bias": False},
}
EVERY_OP: dict[str, Any] = {
    "conv1": {"op": "conv", "out_channels": 6, "kernel": {"height": 3, "width": 2}, "stride": 2, "rounding": "ceil"},
    "tanh1": {"op": "tanh", "amplitude": 1.7, "slope": 0.6},
    "norm1": {
        "op": "lrn", "size": 4, "before": 2, "alpha": 0.3, "alpha_over": "one", "beta": 0.75, "k": 1.5, "groups": 2
    },
    "pool1": {"op": "max_pool", "kernel": 3, "stride": 2, "padding": {"top": 1, "bottom": 0, "left": 2, "right": 1}},
    "conv2": {
        "op": "conv", "out_channels": 4, "kernel": 3, "groups": 2,
        "padding": {"top": 2, "bottom": 1, "left": 0, "right": 2},
    },
    "norm2": {"op": "spatial_norm", "size": 3, "alpha": 0.5, "alpha_over": "area", "beta": 0.6, "k": 1.0},
    "pool2": {"op": "avg_pool", "kernel": 2, "stride": 2, "padding": 1, "rounding": "ceil", "divisor": "inside"},
    "local3": {
        "op": "local", "out_channels": 4, "kernel": 2, "groups": 2,
        "padding": {"top": 1, "bottom": 0, "left": 0, "right": 1},
    },
    "relu3": {"op": "relu"},
    "drop3": {"op": "dropout", "rate": 0.3, "scale": "train"},
    "flatten": {"op": "flatten"},
    **DROPPED,
}  # fmt: skip
OTHERWISE: dict[str, Any] = {
    "conv1": {"op": "conv", "out_channels": 4, "kernel": 3, "padding": 1, "bias": False},
    "norm1": {"op": "lrn", "size": 3, "alpha": 0.3, "alpha_over": "size", "beta": 0.5, "k": 1.0},
    "pool1": {"op": "avg_pool", "kernel": 3, "stride": 2, "padding": 1, "divisor": "window"},
    "norm2": {"op": "spatial_norm", "size": 5, "alpha": 0.5, "alpha_over": "one", "beta": 1.0, "k": 2.0},
    "pool2": {"op": "max_pool", "kernel": 3, "stride": 2, "rounding": "ceil"},
    "local3": {"op": "local", "out_channels": 3, "kernel": 2, "stride": 2, "bias": False},
    "flatten": {"op": "flatten"},
    "none": {"op": "dropout", "rate": 0.0, "scale": "test"},
    "fc4": {"op": "dense", "out_features": 3},
}
ONE_LAYER: dict[str, Any] = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 3}}


def spec_of(layers_: dict[str, Any], **training: Any) -> Spec:
    return small.spec(layers_, channels=2, size=9, **training)


def images_for(spec: Spec, n: int = 4) -> np.ndarray:
    size = spec.input
    return np.random.default_rng(1).standard_normal((n, size.channels, size.height, size.width))


def labels_for(spec: Spec, n: int = 4) -> np.ndarray:
    return np.arange(n) % geometry(spec).output_shape[0]


def masks_for(spec: Spec, n: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: rng.random((n, *shape)) < 0.6 for name, shape in dropout_shapes(spec).items()}


def pair_of(spec: Spec, dtype: str = "float64") -> tuple[KerasBackend, NumpyBackend]:
    """The backend and the oracle, with the same parameters and velocities."""
    ours, oracle = KerasBackend(spec, dtype=dtype), NumpyBackend(spec)
    rng = np.random.default_rng(3)
    parameters = {name: 0.4 * rng.standard_normal(shape) for name, shape in geometry(spec).parameters.items()}
    velocities = {name: 0.1 * rng.standard_normal(shape) for name, shape in geometry(spec).parameters.items()}
    for backend in (ours, oracle):
        backend.load(parameters, velocities)
    return ours, oracle


def assert_close(ours: dict[str, Any], oracle: dict[str, Any], tolerance: float) -> None:
    assert list(ours) == list(oracle)
    for name, expected in oracle.items():
        limit = tolerance * np.abs(expected).max()
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=limit, err_msg=name)


def numpy(variable: keras.Variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable.value))


def channels_first(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def schedule(spec: Spec, epoch: int) -> dict[str, Settings]:
    return settings(spec, Place(epoch, epoch * 5, 5, spec.training.epochs))


# --- against the oracle -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [EVERY_OP, OTHERWISE], ids=["every_op", "otherwise"])
def test_outputs_gradients_and_loss_are_the_oracles_in_float64(network: dict[str, Any]) -> None:
    spec = spec_of(network)
    ours, oracle = pair_of(spec)
    images, labels = images_for(spec), labels_for(spec)
    masks = masks_for(spec)
    for given in (None, masks):
        assert_close(ours.outputs(images, given), oracle.outputs(images, given), 1e-12)
    np.testing.assert_array_equal(ours.predict(images), ours.outputs(images)[spec.layers[-1].name])
    assert ours.loss(images, labels, masks) == pytest.approx(oracle.loss(images, labels, masks), rel=1e-13)
    cotangent = np.random.default_rng(4).standard_normal((4, *geometry(spec).output_shape))
    found, expected = ours.gradients(images, cotangent, masks), oracle.gradients(images, cotangent, masks)
    assert_close(found.parameters, expected.parameters, 1e-12)
    assert_close({"input": found.input}, {"input": expected.input}, 1e-12)
    assert_close({"logits": found.logits}, {"logits": expected.logits}, 1e-12)


def test_gradients_in_evaluation_are_the_oracles() -> None:
    spec = spec_of({"flatten": {"op": "flatten"}, **DROPPED})
    ours, oracle = pair_of(spec)
    cotangent = np.random.default_rng(4).standard_normal((4, 7))
    found, expected = ours.gradients(images_for(spec), cotangent), oracle.gradients(images_for(spec), cotangent)
    assert_close({"input": found.input, **found.parameters}, {"input": expected.input, **expected.parameters}, 1e-12)


def test_float32_is_float32() -> None:
    spec = spec_of(EVERY_OP)
    ours, oracle = pair_of(spec, "float32")
    images, masks = images_for(spec), masks_for(spec)
    found = ours.outputs(images, masks)
    assert {array.dtype for array in found.values()} == {np.dtype("float32")}
    assert_close(found, oracle.outputs(images, masks), 1e-5)


def test_a_tie_gives_its_gradient_to_the_first_place() -> None:
    pool = {"op": "max_pool", "kernel": 3, "stride": 2, "padding": 1, "rounding": "ceil"}
    spec = spec_of({"pool": pool, **ONE_LAYER})
    ours, oracle = pair_of(spec)
    images = np.sign(images_for(spec)) - 3.0  # negative throughout: padding by zeros would win
    cotangent = np.random.default_rng(4).standard_normal((4, 3))
    found, expected = ours.gradients(images, cotangent), oracle.gradients(images, cotangent)
    np.testing.assert_allclose(found.input, expected.input, atol=1e-13)


RULES = list(itertools.product((True, False), ("coupled", "decoupled")))


@pytest.mark.parametrize(("in_velocity", "decay"), RULES)
def test_steps_across_a_drop_of_the_rate_are_the_oracles(in_velocity: bool, decay: str) -> None:
    rule = {"kind": "sgd", "momentum": 0.9, "learning_rate_in_velocity": in_velocity, "decay": decay}
    rates = {
        "*": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.1}, {"epoch": 2, "rate": 0.01}]},
        "*.bias": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.2}, {"epoch": 1, "rate": 0}]},
    }
    spec = spec_of(ONE_LAYER, optimizer=rule, learning_rate=rates, weight_decay={"*": 0.05, "*.bias": 0.02})
    ours, oracle = pair_of(spec)
    for epoch in range(3):
        for backend in (ours, oracle):
            backend.step(images_for(spec), labels_for(spec), schedule(spec, epoch), {})
        assert_close(ours.parameters(), oracle.parameters(), 1e-13)
        assert_close(ours.velocities(), oracle.velocities(), 1e-13)


def test_a_step_with_masks_is_the_oracles_and_is_counted() -> None:
    spec = spec_of({"flatten": {"op": "flatten"}, **DROPPED})
    ours, oracle = pair_of(spec)
    images, labels, masks = images_for(spec), labels_for(spec), masks_for(spec)
    for epoch in (0, 2):
        for backend in (ours, oracle):
            backend.step(images, labels, schedule(spec, epoch), masks)
    assert_close(ours.parameters(), oracle.parameters(), 1e-12)
    found, expected = ours.metrics(), oracle.metrics()
    assert (found.images, found.correct1, found.correct5) == (expected.images, expected.correct1, expected.correct5)
    assert found.losses == pytest.approx(expected.losses, rel=1e-12)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert ours.metrics().images == 0


def test_metrics_rank_ties_and_not_a_number_as_the_contract_says() -> None:
    spec = spec_of({"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 7}})
    ours = KerasBackend(spec)
    labels = np.array([0, 3, 6, 5])
    ours.step(images_for(spec), labels, schedule(spec, 0), {})  # every score is 0: rank is the class
    assert (ours.metrics().correct1, tally(np.zeros((4, 7)), labels).correct1) == (1, 1)
    ours.load({name: np.full(shape, np.nan) for name, shape in geometry(spec).parameters.items()})
    ours.step(images_for(spec), labels, schedule(spec, 0), {})
    spoiled = ours.metrics()
    assert (spoiled.correct1, spoiled.correct5) == (0, 0)
    assert np.isnan(spoiled.losses[0])


# --- the backend ------------------------------------------------------------------------------------------------------


def test_a_changed_rate_does_not_compile_the_step_again(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    plain = KerasBackend._step

    def counted(self: KerasBackend, *inputs: Any) -> Any:
        traced.append(1)
        return plain(self, *inputs)

    monkeypatch.setattr(KerasBackend, "_step", counted)
    spec = spec_of(ONE_LAYER)
    ours = KerasBackend(spec)
    for epoch in (0, 1, 2, 2):
        ours.step(images_for(spec), labels_for(spec), schedule(spec, epoch), {})
    assert len(traced) == (4 if FRAMEWORK == "torch" else 1)


def test_a_backend_starts_with_zeros_and_gives_copies() -> None:
    spec = spec_of(EVERY_OP)
    ours = KerasBackend(spec)
    assert {name: array.shape for name, array in ours.parameters().items()} == geometry(spec).parameters
    assert not any(array.any() for array in (*ours.parameters().values(), *ours.velocities().values()))
    ours.parameters()["fc4.bias"][:] = 5
    ours.velocities()["fc4.bias"][:] = 5
    assert not ours.parameters()["fc4.bias"].any()
    assert not ours.velocities()["fc4.bias"].any()


def test_what_is_loaded_comes_back() -> None:
    spec = spec_of(EVERY_OP)
    ours = KerasBackend(spec)
    first = initial_parameters(spec, 1)
    velocities = {name: array - 1 for name, array in first.items()}
    ours.load(first, velocities)
    for name, array in first.items():
        np.testing.assert_array_equal(ours.parameters()[name], array)
        np.testing.assert_array_equal(ours.velocities()[name], velocities[name])
    ours.load(first)
    assert not any(array.any() for array in ours.velocities().values())


def test_what_does_not_fit_is_refused() -> None:
    spec = spec_of(EVERY_OP)
    ours = KerasBackend(spec)
    parameters = initial_parameters(spec, 1)
    with pytest.raises(ValueError, match=r"parameters.*Missing: fc5\.weight"):
        ours.load({name: array for name, array in parameters.items() if name != "fc5.weight"})
    with pytest.raises(ValueError, match=r"velocities of fc5\.weight must have shape"):
        ours.load(parameters, {**parameters, "fc5.weight": parameters["fc5.weight"].T})
    with pytest.raises(ValueError, match="masks must have the names and shapes"):
        ours.outputs(images_for(spec), {})
    with pytest.raises(Unsupported, match="float16"):
        KerasBackend(spec, dtype="float16")
    for device in ("tpu", "cpu:7", "cuda:9:1", ""):
        with pytest.raises(Unsupported, match=f"one of auto, cpu.*Received: {device}$"):
            KerasBackend(spec, device=device)


def test_another_framework_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    with pytest.raises(RuntimeError, match=f"here {FRAMEWORK}. Received: openvino"):
        KerasBackend(spec_of(ONE_LAYER))


def test_the_backend_says_what_it_is() -> None:
    ours = KerasBackend(spec_of(ONE_LAYER), device="cpu")
    assert (ours.name, ours.device, ours.dtype) == (f"keras-{FRAMEWORK}", "cpu", "float32")


# --- how it is executed -----------------------------------------------------------------------------------------------


def test_masks_of_the_device_are_the_definition_s() -> None:
    ours = KerasBackend(spec_of(EVERY_OP), device="cpu")
    for seed, images in ((0, [3, 0, 7]), (2**32 - 1, [2**31, 2**32 - 1])):
        found, expected = ours.device_masks(seed, images, 8), Backend.dropout_masks(ours, seed, images, 8)
        assert list(found) == list(expected) == ["drop3", "drop4"]
        for name, mask in expected.items():
            assert keras.backend.standardize_dtype(found[name].dtype) == "bool"
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(found[name]), mask)


def test_a_step_in_pieces_is_the_oracle_s() -> None:
    spec = spec_of({"flatten": {"op": "flatten"}, **DROPPED})
    ours, oracle = pair_of(spec)
    ours.accumulate(2)
    images, labels = images_for(spec, 5), labels_for(spec, 5)
    for epoch in (0, 2):
        for backend in (ours, oracle):
            masks = ours.device_masks(1, np.arange(5), epoch) if backend is ours else masks_of(oracle, epoch)
            backend.step(images, labels, schedule(spec, epoch), masks)
        assert_close(ours.parameters(), oracle.parameters(), 1e-12)
        assert_close(ours.velocities(), oracle.velocities(), 1e-12)
    found, expected = ours.metrics(), oracle.metrics()
    assert (found.images, found.correct1, found.correct5) == (expected.images, expected.correct1, expected.correct5)
    assert found.losses == pytest.approx(expected.losses, rel=1e-12)
    ours.step(np.full_like(images, np.nan), labels, schedule(spec, 0), masks_of(oracle, 0))  # gathers what is no number
    ours.load(oracle.parameters(), oracle.velocities())
    for backend in (ours, oracle):
        backend.step(images, labels, schedule(spec, 0), masks_of(oracle, 0))
    assert_close(ours.parameters(), oracle.parameters(), 1e-12)


def masks_of(oracle: NumpyBackend, epoch: int) -> dict[str, np.ndarray]:
    return dict(oracle.dropout_masks(1, np.arange(5), epoch))


def test_mixed_precision_keeps_float32() -> None:
    spec = spec_of(EVERY_OP)
    ours = KerasBackend(spec, dtype="mixed_bfloat16")
    given = initial_parameters(spec, 1)
    ours.load(given)
    for name, array in ours.parameters().items():
        np.testing.assert_array_equal(array, given[name])
    assert {layer.compute_dtype for layer in ours.model.layers[1:]} == {"bfloat16"}
    variables = [*ours.model.trainable_variables, *ours._optimizer.velocities().values()]
    assert {variable.dtype for variable in variables} == {"float32"}
    assert ours.predict(images_for(spec)).dtype == np.float32


def test_a_rate_that_float32_rounds_to_nothing_freezes_nothing() -> None:
    """Its velocity goes on to fade; that of a frozen parameter stays."""
    spec = spec_of(ONE_LAYER)
    ours, oracle = pair_of(spec, "float32")
    chosen = {"fc.weight": Settings(1e-303, 0.0), "fc.bias": Settings(0.0, 0.0)}
    for backend in (ours, oracle):
        backend.step(images_for(spec), labels_for(spec), chosen, {})
    assert_close(ours.velocities(), oracle.velocities(), 1e-6)
    assert_close(ours.parameters(), oracle.parameters(), 1e-6)


@pytest.mark.parametrize("rate", diverging.BEGINNINGS)
def test_a_divergence_is_told_by_its_layer(rate: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of PyTorch."""
    assert cli.main("keras", ["--backend", FRAMEWORK, *diverging.options(tmp_path, rate)]) == 1
    assert diverging.BEGINNINGS[rate] in capsys.readouterr().err


# --- the plain model --------------------------------------------------------------------------------------------------


WITHOUT_DROPOUT: dict[str, Any] = {name: layer for name, layer in small.ALEXNET.items() if name != "drop6"}
Trained = tuple[Spec, keras.Model, np.ndarray, list[float]]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A small AlexNet, the images of which it has been shown half by ``fit``, and the losses that this reported."""
    spec = small.spec(WITHOUT_DROPOUT)
    images, labels = images_for(spec, 16).transpose(0, 2, 3, 1).astype("float32"), labels_for(spec, 16)
    network = backends.keras.build(spec, seed=3)
    network.compile(backends.keras.SGD.of(spec), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = network.fit(images, labels, batch_size=16, epochs=4, shuffle=False, verbose=0)
    return spec, network, images, history.history["loss"]


def test_fit_takes_the_oracles_steps(trained: Trained) -> None:
    spec, network, images, losses = trained
    oracle = NumpyBackend(spec)
    oracle.load(initial_parameters(spec, 3))
    for _ in range(4):
        oracle.step(images.transpose(0, 3, 1, 2), labels_for(spec, 16), schedule(spec, 0), {})
    assert losses == pytest.approx(oracle.metrics().losses, rel=1e-5)
    found = {name: model.to_canonical(numpy(variable)) for name, variable in model.parameters(network).items()}
    assert_close(found, oracle.parameters(), 1e-4)


def test_a_saved_model_is_the_same_model(trained: Trained, tmp_path: Path) -> None:
    _, network, images, _ = trained
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), network.predict(images, verbose=0))
    for ours, theirs in zip(network.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


def test_a_layer_is_found_under_its_name(trained: Trained) -> None:
    spec, network, images, _ = trained
    oracle = NumpyBackend(spec)
    values = {name: numpy(variable) for name, variable in model.parameters(network).items()}
    oracle.load({name: model.to_canonical(value) for name, value in values.items()})
    expected = oracle.outputs(images.transpose(0, 3, 1, 2))
    outputs = {layer.name: network.get_layer(layer.name).output for layer in spec.layers}
    found = keras.Model(network.input, outputs).predict(images, verbose=0)
    assert_close({name: channels_first(found[name]) for name in expected}, expected, 1e-5)


def test_build_takes_the_draws_of_its_seed() -> None:
    spec = small.spec()
    built = model.parameters(backends.keras.build(spec, seed=5))
    for name, value in initial_parameters(spec, 5).items():
        np.testing.assert_array_equal(model.to_canonical(numpy(built[name])), value)


def test_a_cloned_model_has_weights_of_the_same_distribution() -> None:
    spec = small.spec({"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 500}})
    clone = model.parameters(keras.models.clone_model(backends.keras.build(spec)))
    weight = numpy(clone["fc.weight"])
    assert weight.std() == pytest.approx(np.sqrt(2 / 64), rel=0.03)
    assert (numpy(clone["fc.bias"]) == np.float32(0.1)).all()


def test_dropout_without_a_mask_draws_its_own() -> None:
    layer = layers.Dropout(0.25, "train", seed=1)
    ones = np.ones((40, 1000), "float32")
    first, second = (keras.ops.convert_to_numpy(layer(ones, training=True)) for _ in range(2))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert (first > 0).mean() == pytest.approx(0.75, abs=0.01)
    assert (first != second).any()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(ones)), ones)


LAYERS = [
    layers.Conv2D(4, (3, 2), ((1, 0), (2, 1)), groups=2, strides=(2, 1)),
    layers.Dense(6, groups=3, use_bias=False),
    layers.LocallyConnected2D(4, (2, 3), (1, 2), ((1, 0), (2, 1)), groups=2),
    layers.MaxPooling2D((3, 2), (2, 1), ((1, 0), (0, 1))),
    layers.AveragePooling2D((3, 2), (2, 1), ((1, 0), (0, 1)), inside=True),
    normalization.LocalResponseNormalization(0.1, 0.75, 2.0, 2, 1, 2),
    normalization.SpatialNormalization(0.1, 0.75, 2.0, 3),
    layers.ScaledTanh(1.7, 0.6),
    layers.Dropout(0.4, "test", seed=3),
    layers.FlattenChannels(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_is_made_again_from_its_configuration(layer: keras.Layer) -> None:
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    inputs = np.random.default_rng(0).standard_normal((2, 6) if isinstance(layer, layers.Dense) else (2, 5, 5, 4))
    assert tuple(again(inputs.astype("float32")).shape) == layer.compute_output_shape(inputs.shape)


def test_half_precision_normalises_in_float32() -> None:
    layer = normalization.LocalResponseNormalization(1e-4, 0.75, 2.0, 2, 2, dtype="bfloat16")
    x = keras.ops.cast(np.full((1, 1, 1, 8), 300.0, "float32"), "float16")  # 300 * 300 overflows float16
    narrow = normalization.LocalResponseNormalization(1e-4, 0.75, 2.0, 2, 2, dtype="float16")
    found = keras.ops.convert_to_numpy(keras.ops.cast(narrow(x), "float32"))[0, 0, 0, 4]
    assert found == pytest.approx(300 / (2 + 1e-4 * 5 * 300**2) ** 0.75, rel=1e-3)
    assert keras.backend.standardize_dtype(layer(keras.ops.cast(x, "bfloat16")).dtype) == "bfloat16"


# --- images -----------------------------------------------------------------------------------------------------------


def test_every_augmentation_is_the_definition_s() -> None:
    images, statistics = augmentations.pictures()
    for case in augmentations.CASES:
        stated = augmentations.case(*case)
        for epoch in (1, 2):
            indices, drawn, known, wanted = augmentations.expected(images, statistics, stated, epoch)
            found = augmented(images[indices], drawn, **known)
            assert keras.backend.standardize_dtype(found.dtype) == "float32"
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), wanted, err_msg=f"{case}, epoch {epoch}")


def test_a_step_takes_what_lies_on_the_device() -> None:
    stated = augmentations.case("stddev", "moving", "random", "bgr", 1 / 255)
    images, statistics = augmentations.pictures()
    indices, drawn, known, wanted = augmentations.expected(images, statistics, stated, 0)
    labels = indices % 4
    backend = KerasBackend(stated)
    backend.load(initial_parameters(stated, 0))
    made = backend.apply_training(images, indices, drawn, **known)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(made), wanted)
    here = augmented(images[indices], drawn, **known)
    assert backend.loss(here, labels) == backend.loss(wanted, labels)


if FRAMEWORK == "jax":

    @pytest.mark.parametrize("block", [1, 500, 1 << 21], ids=["image by image", "some at once", "all at once"])
    @pytest.mark.parametrize(("strides", "padding"), [((1, 1), "same"), ((1, 2), "valid"), ((3, 2), "same")])
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
    def test_products_are_the_convolution(
        block: int,
        strides: tuple[int, int],
        padding: str,
        dtype: str,
        tolerance: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        import jax
        import jax.numpy as jnp

        from backends.keras import products

        draw = np.random.default_rng(0)
        x = jnp.asarray(draw.normal(size=(7, 9, 8, 3)), dtype)
        kernel = jnp.asarray(draw.normal(size=(4, 3, 3, 5)), dtype)
        monkeypatch.setattr(products, "_BLOCK", block)

        def plain(x: Any, kernel: Any) -> Any:  # in float32: what is rounded is the result
            wide = x.astype("float32"), kernel.astype("float32")
            return products._plain(*wide, strides, padding).astype(dtype)

        def ours(x: Any, kernel: Any) -> Any:
            return products.convolution(x, kernel, strides, padding)

        expected, by_plain = jax.vjp(plain, x, kernel)
        found, by_products = jax.jit(lambda *a: jax.vjp(ours, *a))(x, kernel)
        g = jnp.asarray(draw.normal(size=expected.shape), dtype)
        for one, other in zip((found, *by_products(g)), (expected, *by_plain(g)), strict=True):
            assert one.dtype == other.dtype == dtype
            one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
            np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())

    @hypothesis.given(
        shape=st.tuples(st.integers(1, 2), st.integers(3, 9), st.integers(3, 9), st.integers(1, 3)),
        size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        padding=st.sampled_from(("valid", "same")),
        dtype=st.sampled_from(("float32", "bfloat16")),
        seed=st.integers(0, 99),
    )
    @hypothesis.settings(max_examples=40, deadline=None)
    def test_shifted_maps_give_each_cotangent_to_whom_jax_gives_it(
        shape: tuple[int, ...],
        size: tuple[int, int],
        strides: tuple[int, int],
        padding: str,
        dtype: str,
        seed: int,
    ) -> None:
        import jax
        import jax.numpy as jnp

        from backends.keras import pools

        draw = np.random.default_rng(seed)
        x = jnp.asarray(draw.integers(-1, 2, shape), dtype)  # most windows have their largest value several times
        expected, by_plain = jax.vjp(lambda x: pools._plain(x, size, strides, padding), x)
        found, by_shifts = jax.vjp(lambda x: pools.max_pool(x, size, strides, padding), x)
        g = jnp.asarray(draw.integers(-4, 5, expected.shape), dtype)  # whose sums are exact in any order
        np.testing.assert_array_equal(found, expected)
        (one,), (other,) = by_shifts(g), by_plain(g)
        assert one.dtype == other.dtype == dtype
        np.testing.assert_array_equal(np.asarray(one, np.float32), np.asarray(other, np.float32))

    def test_the_first_nan_of_a_window_has_its_cotangent() -> None:
        import jax
        import jax.numpy as jnp

        from backends.keras import pools

        x = jnp.asarray([np.nan, 1, 2, 3, np.nan, np.nan]).reshape(1, 1, 6, 1)
        _, backward = jax.vjp(lambda x: pools.max_pool(x, (1, 2), (1, 2), "valid"), x)
        (found,) = backward(jnp.asarray([5.0, 7.0, 9.0]).reshape(1, 1, 3, 1))
        assert found.ravel().tolist() == [5, 0, 0, 7, 9, 0]

    def test_a_cpu_is_asked_for_shifted_maps_and_others_for_a_scatter() -> None:
        import jax

        from backends.keras import pools

        gradient = jax.grad(lambda x: pools.max_pool(x, (3, 3), (2, 2), "valid").sum())
        traced = jax.jit(gradient).trace(np.ones((2, 9, 9, 3), np.float32))
        for platform, scattered in (("cpu", False), ("cuda", True)):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert ("select_and_scatter" in text) == scattered

    def test_a_cpu_is_asked_for_products_and_others_for_convolutions() -> None:
        import jax

        from backends.keras import products

        x, kernel = np.ones((4, 9, 9, 3), np.float32), np.ones((3, 3, 3, 5), np.float32)
        gradient = jax.grad(lambda kernel: products.convolution(x, kernel, (2, 2), "valid").sum())
        traced = jax.jit(gradient).trace(kernel)
        for platform, products_there in (("cpu", True), ("cuda", False)):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert ("dot_general" in text) == products_there
            assert ("stablehlo.convolution" in text) != products_there
