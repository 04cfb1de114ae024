"""README, "Initialisation": distributions, fans, and that a value is a function of (specification, seed, name)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import spec
from spec import draws
from spec.draws import Purpose
from spec.initialisation import fans

BASE: dict[str, Any] = {
    "name": "everything",
    "title": "a little of everything",
    "input": {"channels": 2, "height": 12, "width": 12},
    "layers": {
        "conv1": {"op": "conv", "out_channels": 40, "kernel": 5, "groups": 2},
        "local2": {"op": "local", "out_channels": 4, "kernel": 3},
        "flatten": {"op": "flatten"},
        "fc3": {"op": "dense", "out_features": 60},
        "fc4": {"op": "dense", "out_features": 30, "groups": 2},
    },
    "init": {"weight": {"kind": "normal", "std": 0.01}, "bias": {"kind": "constant", "value": 0}},
}


def network(init: dict[str, Any] | None = None) -> spec.Spec:
    rest = spec.load("fashion-mini").statement()
    sections = {name: rest[name] for name in ("training", "data", "evaluation")}
    return spec.from_values(BASE | sections | ({"init": init} if init else {}))


def scaled(fan: str, distribution: str, scale: float = 2.0) -> dict[str, Any]:
    kind = {"kind": "variance_scaling", "scale": scale, "fan": fan, "distribution": distribution}
    return {"weight": kind, "bias": kind}


def test_parameters_come_in_network_order_with_their_shapes() -> None:
    parameters = spec.initial_parameters(network(), seed=1)
    assert list(parameters) == list(spec.geometry(network()).parameters)
    assert all(value.dtype == np.float32 for value in parameters.values())
    assert {name: value.shape for name, value in parameters.items()} == spec.geometry(network()).parameters


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((96, 3, 11, 11), (3 * 121, 96 * 121)),
        ((256, 48, 5, 5), (48 * 25, 256 * 25)),
        ((10, 20), (20, 10)),
        ((4, 40, 3, 3, 6, 6), (360, 36)),
    ],
)
def test_fans_count_inputs_and_outputs_of_a_kernel(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert fans(shape) == expected


FC3 = 60 * 4 * 36
CASES = [  # distribution of every weight, and what fc3.weight (60, 144) must have: std, low, high
    ({"kind": "normal", "std": 0.03}, 0.03, None, None),
    ({"kind": "uniform", "low": -0.5, "high": 1.5}, 2 / math.sqrt(12), -0.5, 1.5),
    ({"kind": "truncated_normal", "std": 0.1}, 0.1 * 0.8796256610342398, -0.2, 0.2),
    (scaled("fan_in", "normal")["weight"], math.sqrt(2 / 144), None, None),
    (scaled("fan_out", "normal")["weight"], math.sqrt(2 / 60), None, None),
    (scaled("fan_avg", "normal")["weight"], math.sqrt(2 / 102), None, None),
    (scaled("fan_in", "uniform", 1 / 3)["weight"], 1 / math.sqrt(3 * 144), -1 / 12, 1 / 12),
]


@pytest.mark.parametrize(("distribution", "std", "low", "high"), CASES)
def test_a_distribution_has_its_moments(distribution: Any, std: float, low: float | None, high: float | None) -> None:
    drawn = spec.initial_parameter(network({"weight": distribution, "bias": distribution}), "fc3.weight", 3)
    middle = ((low or 0) + (high or 0)) / 2
    assert drawn.size == FC3
    assert drawn.mean() == pytest.approx(middle, abs=5 * std / math.sqrt(FC3))
    assert drawn.std() == pytest.approx(std, rel=5 / math.sqrt(2 * FC3))
    if low is not None and high is not None:
        assert low <= drawn.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < drawn.max() <= high


def test_a_bias_takes_the_fan_of_its_weight() -> None:
    bias = spec.initial_parameter(network(scaled("fan_in", "uniform", 1 / 3)), "conv1.bias", 0)
    assert bias.shape == (40,)
    assert 0.8 / 5 < np.abs(bias).max() <= 1 / 5  # 1 / sqrt(25)


def test_a_named_parameter_overrides_its_kind() -> None:
    init = BASE["init"] | {"parameters": {"fc3.bias": {"kind": "constant", "value": 1}}}
    drawn = spec.initial_parameters(network(init))
    assert set(drawn["fc3.bias"]) == {1}
    assert set(drawn["conv1.bias"]) == {0}


def test_an_element_is_the_transform_of_its_word() -> None:
    drawn = spec.initial_parameter(network(), "fc4.weight", 9).reshape(-1)
    words = draws.words(9, Purpose.INIT, drawn.size, tag=draws.tag("fc4.weight"))
    np.testing.assert_array_equal(drawn, (0.01 * draws.normal(words)).astype(np.float32))


def test_seeds_and_names_give_different_values_and_equal_ones_the_same() -> None:
    one = spec.initial_parameters(network(), 1)
    np.testing.assert_array_equal(one["fc3.weight"], spec.initial_parameters(network(), 1)["fc3.weight"])
    assert not np.array_equal(one["fc3.weight"], spec.initial_parameters(network(), 2)["fc3.weight"])
    assert not np.array_equal(one["fc3.weight"].reshape(-1)[:100], one["local2.weight"].reshape(-1)[:100])


def test_an_unknown_parameter_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="conv9"):
        spec.initial_parameter(network(), "conv9.weight", 0)
