"""The oracle behind the contract: a whole network's gradients, training, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import spec
from backends import Unsupported, create
from backends.base import Backend
from spec import Spec

SEED = 11


@pytest.fixture(scope="module")
def network():
    return spec.load(
        "fashion-mini",
        {
            "input": {"channels": 2, "height": 13, "width": 13},
            "layers": {"conv1": {"stride": 1}},
            "data": {"storage": {"size": 13}},
        },
    )


@pytest.fixture
def backend(network: Spec) -> Backend:
    made = create("numpy", network, dtype="float64")
    assert isinstance(made, Backend)
    made.load(spec.initial_parameters(network, SEED))
    return made


def batch(network, images=3):
    random = np.random.default_rng(SEED)
    shape = (images, network.input.channels, network.input.height, network.input.width)
    masks = {name: random.random((images, *s)) < 0.5 for name, s in spec.dropout_shapes(network).items()}
    return random.normal(size=shape), random.integers(0, 10, images), masks


@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_of_a_whole_network_is_its_slope(network, backend, training):
    images, _, masks = batch(network)
    masks = masks if training else None
    random = np.random.default_rng(1)
    cotangent = random.normal(size=(len(images), 10))
    gradients = backend.gradients(images, cotangent, masks)
    parameters = backend.parameters()
    assert list(gradients.parameters) == list(parameters)
    for name in [*parameters, "input"]:
        gradient = gradients.input if name == "input" else gradients.parameters[name]
        direction = random.normal(size=gradient.shape) * (np.abs(gradient) > 0)
        direction /= np.linalg.norm(direction)
        values = []
        for h in (1e-6, -1e-6):
            if name == "input":
                values.append((cotangent * backend.outputs(images + h * direction, masks)["fc8"]).sum())
                continue
            backend.load({**parameters, name: parameters[name] + h * direction})
            values.append((cotangent * backend.outputs(images, masks)["fc8"]).sum())
        backend.load(parameters)
        slope = (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-6), name


def test_steps_lower_the_loss_and_metrics_are_of_the_time_before_the_update(network, backend):
    images, labels, masks = batch(network, 8)
    settings = spec.settings(network, spec.Place(0, 0, 1, 1))
    before = backend.loss(images, labels, masks)
    for _ in range(5):
        backend.step(images, labels, settings, masks)
    metrics = backend.metrics()
    assert metrics.images == 40
    assert backend.loss(images, labels, masks) < metrics.loss / 40 < before * 1.5
    assert backend.metrics().images == 0
    assert any(v.any() for v in backend.velocities().values())


def test_what_crosses_the_contract_is_a_copy(network, backend):
    backend.parameters()["fc8.weight"][:] = 0
    assert backend.parameters()["fc8.weight"].any()
    mine = backend.parameters()
    backend.load(mine, mine)
    mine["fc8.weight"][:] = 0
    assert backend.parameters()["fc8.weight"].any()
    assert backend.velocities()["fc8.weight"].any()


def test_float32_is_computed_in_float32(network):
    made = create("numpy", network, dtype="float32")
    made.load(spec.initial_parameters(network, SEED))
    images, _, _ = batch(network)
    assert {array.dtype for array in made.outputs(images).values()} == {np.dtype(np.float32)}


def test_refusals(network, backend):
    parameters = backend.parameters()
    with pytest.raises(ValueError, match=r"Missing: fc8\.bias"):
        backend.load({k: v for k, v in parameters.items() if k != "fc8.bias"})
    with pytest.raises(ValueError, match=r"fc8\.weight must have shape"):
        backend.load({**parameters, "fc8.weight": parameters["fc8.weight"].T})
    images, _, masks = batch(network)
    with pytest.raises(ValueError, match="masks"):
        backend.outputs(images, {})
    with pytest.raises(ValueError, match="masks"):
        backend.outputs(images[:2], masks)
    with pytest.raises(Unsupported, match="float16"):
        create("numpy", network, dtype="float16")
    with pytest.raises(Unsupported, match="cpu"):
        create("numpy", network, device="cuda")
