"""The small networks: that slim is still the variant, and that the generator goes everywhere in the language."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import spec
from backends.numpy.ops import FORWARD
from conformance.bounds import Arithmetic
from conformance.cases import build
from conformance.oracle import Oracle
from conformance.specs import chooser, generate, slim
from conformance.training import plan


@pytest.mark.parametrize("name", spec.names())
def test_slim_keeps_layers_conventions_and_recipe(name):
    full, narrow = spec.load(name), slim(spec.load(name))
    assert [(layer.name, layer.op) for layer in narrow.layers] == [(layer.name, layer.op) for layer in full.layers]
    assert narrow.training == full.training
    assert spec.geometry(narrow).parameter_count < 50_000
    widths = {"out_channels", "out_features"}
    for one, other in zip(narrow.layers, full.layers, strict=True):
        assert one.model_dump(exclude=widths) == other.model_dump(exclude=widths)


def test_slim_flattens_maps_whose_order_matters():
    at = next(layer for layer in spec.geometry(slim(spec.load("source-2012"))).layers if layer.name == "flatten")
    assert min(at.input_shape) >= 2


def test_the_generator_reaches_the_whole_language():
    seen: Counter[str] = Counter()
    for number in range(120):
        network = generate(chooser(number))
        seen.update({layer.op for layer in network.layers})
        optimizer = network.training.optimizer
        seen.update({f"in velocity {optimizer.learning_rate_in_velocity}", optimizer.decay})
        for layer in network.layers:
            values = layer.model_dump()
            padding = values.get("padding") or {}
            seen["asymmetric padding"] += len(set(padding.values())) > 1
            seen["groups"] += values.get("groups", 1) > 1
            seen["ceil"] += values.get("rounding") == "ceil"
            seen["even window"] += layer.op == "lrn" and values["size"] % 2 == 0
            seen[f"scale {values.get('scale')}"] += layer.op == "dropout"
            seen["no bias"] += values.get("bias") is False
    wanted = {
        *FORWARD, "in velocity True", "in velocity False", "coupled", "decoupled", "scale train", "scale test",
        "asymmetric padding", "groups", "ceil", "even window", "no bias",
    }  # fmt: skip
    assert {what for what in wanted if seen[what] < 5} == set()


def test_generated_networks_repeat():
    assert generate(chooser(3)) == generate(chooser(3))
    assert generate(chooser(3)) != generate(chooser(4))


@pytest.mark.parametrize("name", ["source-2012", "caffenet", "torchvision"])
def test_cases_are_safe_signed_and_in_play(name):
    """No decision within reach of rounding; normalisations and biases matter."""
    network = slim(spec.load(name))
    case = build(network, 1, images=2, arithmetic=Arithmetic("float32"))
    for masks in (None, case.masks):
        oracle = Oracle(network, case.parameters, case.images, masks, Arithmetic("float32"), replicas=4, seed=77)
        assert oracle.unsafe() == {}
        for step in oracle.steps:
            if step.call.layer.op == "lrn":
                layer = step.call.layer
                total = layer.coefficient * layer.size * np.mean(step.call.x**2)
                assert 0.1 * layer.k < total < 10 * layer.k
    assert all((case.parameters[name] != 0).all() for name in case.parameters if name.endswith(".bias"))
    assert (case.images < 0).any()
    again = build(network, 1, images=2, arithmetic=Arithmetic("float32"))
    assert all(np.array_equal(again.parameters[name], value) for name, value in case.parameters.items())


def test_plans_cross_every_change_of_a_recipe():
    settings = plan(spec.load("source-2012"))
    rates = [one["conv1.weight"].learning_rate for one in settings]
    assert rates[0] == rates[1] > rates[2] > rates[3]
    assert rates[-1] == 0
    assert settings[-1]["conv2.weight"].learning_rate > 0
    plateau = [one["conv1.weight"].learning_rate for one in plan(spec.load("paper-2012"))]
    assert len(set(plateau)) == 4
