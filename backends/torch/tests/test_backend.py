"""PyTorch behind the contract: loading, steps, metrics, devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import spec
from backends import Unsupported, create
from backends.base import tally
from backends.numpy import NumpyBackend
from backends.tests import small
from backends.torch.backend import TorchBackend, hits
from spec import Place, settings


def loaded(dtype: str = "float64") -> tuple[spec.Spec, TorchBackend, dict[str, np.ndarray]]:
    chosen = small.spec()
    backend = TorchBackend(chosen, dtype=dtype, device="cpu")
    parameters = spec.initial_parameters(chosen, 0)
    backend.load(parameters)
    return chosen, backend, parameters


def test_steps_are_those_of_the_oracle_through_a_drop_of_the_learning_rate() -> None:
    chosen, ours, parameters = loaded()
    oracle = NumpyBackend(chosen)
    oracle.load(parameters)
    rng = np.random.default_rng(0)
    for step in range(5):
        images, labels = rng.normal(size=(8, 1, 8, 8)), rng.integers(0, 4, 8)
        masks = {"drop6": rng.random((8, 16)) < 0.5}
        chosen_settings = settings(chosen, Place(epoch=step, step=step, steps_per_epoch=1, epochs=5))
        assert ours.loss(images, labels, masks) == pytest.approx(oracle.loss(images, labels, masks), rel=1e-12)
        for backend in (ours, oracle):
            backend.step(images, labels, chosen_settings, masks)
    for found, expected in ((ours.parameters(), oracle.parameters()), (ours.velocities(), oracle.velocities())):
        assert list(found) == list(expected)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12)
    counted, defined = ours.metrics(), oracle.metrics()
    assert (counted.images, counted.correct1, counted.correct5) == (40, defined.correct1, defined.correct5)
    np.testing.assert_allclose(counted.losses, defined.losses, rtol=1e-12)
    assert counted.loss == pytest.approx(defined.loss, rel=1e-12)
    assert ours.metrics().images == 0


def test_what_was_loaded_is_given_back_and_is_a_copy() -> None:
    chosen, backend, _ = loaded("float32")
    rng = np.random.default_rng(0)
    parameters, velocities = (
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.geometry(chosen).parameters.items()}
        for _ in range(2)
    )
    for array in parameters.values():
        array.flags.writeable = False  # as from a mapped file
    backend.load(parameters, velocities)
    for found, expected in ((backend.parameters(), parameters), (backend.velocities(), velocities)):
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].flags["C_CONTIGUOUS"]
            found[name][...] = 7
    np.testing.assert_array_equal(backend.parameters()["conv1.weight"], parameters["conv1.weight"])
    backend.load(parameters)
    assert not any(velocity.any() for velocity in backend.velocities().values())


def test_begins_with_zeros_and_refuses_other_names_and_shapes() -> None:
    chosen, backend, parameters = loaded()
    assert not any(value.any() for value in TorchBackend(chosen, device="cpu").parameters().values())
    with pytest.raises(ValueError, match=r"Missing: fc8.bias"):
        backend.load({name: value for name, value in parameters.items() if name != "fc8.bias"})
    with pytest.raises(ValueError, match=r"conv1.weight must have shape"):
        backend.load({**parameters, "conv1.weight": np.zeros((4, 1, 3, 4), np.float32)})


def test_predict_is_the_last_output() -> None:
    _, backend, _ = loaded("float32")
    images = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    images.flags.writeable = False
    np.testing.assert_array_equal(backend.predict(images), backend.outputs(images)["fc8"])


def test_hits_are_counted_as_the_contract_defines_them() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (400, 9)).astype(np.float64)  # full of ties
    logits[::7, 3] = np.nan
    logits[::11, 2] = np.inf
    labels = rng.integers(0, 9, 400)
    found = hits(torch.from_numpy(logits), torch.from_numpy(labels)).tolist()
    with np.errstate(invalid="ignore"):
        expected = tally(logits, labels)
    assert found == [expected.correct1, expected.correct5]
    assert 0 < found[0] < found[1] < 400


@pytest.mark.parametrize(
    ("dtype", "device"), [("int8", "cpu"), ("float32", "tpu"), ("float32", "cuda:99"), ("float32", "cpu:1")]
)
def test_what_this_machine_cannot_do_is_unsupported(dtype: str, device: str) -> None:
    with pytest.raises(Unsupported, match=r"Received: (int8|tpu|cuda:99|cpu:1)"):
        create("torch", small.spec(), dtype=dtype, device=device)
