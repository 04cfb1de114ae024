"""Every op against its formula written as loops, and every backward against finite differences of its forward.

The formulas are those of spec/README.md, "Windows", "Layers" and "Loss".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from backends.base import tally
from backends.numpy.ops import BACKWARD, FORWARD, Call, cross_entropy, cross_entropy_backward
from spec.arithmetic import follow
from spec.draws import tag
from spec.language import Layer

MAPS = (4, 7, 5)
UNEVEN = {"top": 1, "bottom": 2, "left": 0, "right": 1}
LAYERS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "conv": ({"op": "conv", "out_channels": 6, "kernel": {"height": 3, "width": 2}, "padding": UNEVEN}, MAPS),
    "conv_stride_ceil_groups": (
        {
            "op": "conv",
            "out_channels": 6,
            "kernel": 3,
            "stride": {"height": 3, "width": 2},
            "rounding": "ceil",
            "groups": 2,
        },
        (4, 8, 6),
    ),
    "conv_floor_leaves_a_rest": ({"op": "conv", "out_channels": 3, "kernel": 3, "stride": 3, "bias": False}, (2, 8, 7)),
    "local": ({"op": "local", "out_channels": 6, "kernel": 3, "stride": 2, "padding": UNEVEN, "groups": 2}, MAPS),
    "max_pool": ({"op": "max_pool", "kernel": 3, "stride": 2, "padding": UNEVEN}, MAPS),
    "max_pool_ceil": (
        {"op": "max_pool", "kernel": {"height": 2, "width": 3}, "stride": 2, "rounding": "ceil"},
        (3, 7, 6),
    ),
    "avg_pool_window": (
        {"op": "avg_pool", "kernel": 3, "stride": 2, "padding": UNEVEN, "rounding": "ceil", "divisor": "window"},
        MAPS,
    ),
    "avg_pool_inside": (
        {"op": "avg_pool", "kernel": 3, "stride": 2, "padding": UNEVEN, "rounding": "ceil", "divisor": "inside"},
        MAPS,
    ),
    "lrn": ({"op": "lrn", "size": 3, "alpha": 0.5, "alpha_over": "size", "beta": 0.75, "k": 2.0}, (7, 3, 2)),
    "lrn_even_behind": (
        {"op": "lrn", "size": 4, "before": 2, "alpha": 0.5, "alpha_over": "one", "beta": 0.6, "k": 1.5},
        (7, 3, 2),
    ),
    "lrn_towers": (
        {"op": "lrn", "size": 5, "before": 3, "alpha": 0.5, "alpha_over": "size", "beta": 0.75, "k": 1.0, "groups": 2},
        (8, 3, 2),
    ),
    "spatial_norm": (
        {"op": "spatial_norm", "size": 5, "alpha": 2.0, "alpha_over": "area", "beta": 0.75, "k": 1.0},
        MAPS,
    ),
    "relu": ({"op": "relu"}, MAPS),
    "tanh": ({"op": "tanh", "amplitude": 1.7159, "slope": 0.6667}, MAPS),
    "dropout_train": ({"op": "dropout", "rate": 0.3, "scale": "train"}, (11,)),
    "dropout_test": ({"op": "dropout", "rate": 0.3, "scale": "test"}, (11,)),
    "flatten": ({"op": "flatten"}, MAPS),
    "dense": ({"op": "dense", "out_features": 3}, (10,)),
    "dense_groups": ({"op": "dense", "out_features": 6, "groups": 2, "bias": False}, (10,)),
}


def call_of(case: str, training: bool = False) -> Call:
    """The layer of `case` on a batch of two, its values so far apart that no difference reaches a kink."""
    values, shape = LAYERS[case]
    layer: Any = TypeAdapter(Layer).validate_python({"name": "layer", **values})
    geometry = follow(shape, (layer,)).layers[0]
    random = np.random.default_rng(tag(case))
    count = 2 * math.prod(shape)
    x = (random.permutation(count).reshape(2, *shape) - count / 2 + 0.25) * (4.0 / count)
    parameters = {name.rpartition(".")[2]: random.normal(size=size) for name, size in geometry.parameters.items()}
    return Call(geometry, x, parameters, random.random(x.shape) < 0.7 if training else None)


def padded_windows(call: Call, fill: float) -> Iterator[tuple[Any, list[tuple[float, bool]]]]:
    """(indices of a place, the window as nested Python numbers), from the definition."""
    layer, pad = call.layer, call.geometry.padding
    assert pad is not None
    _, height, width = call.geometry.input_shape
    for n, c in product(range(2), range(call.geometry.input_shape[0])):
        for y, x in product(*map(range, call.geometry.output_shape[1:])):
            window = []
            for i, j in product(range(layer.kernel.height), range(layer.kernel.width)):
                row, column = y * layer.stride.height + i - pad.top, x * layer.stride.width + j - pad.left
                inside = 0 <= row < height and 0 <= column < width
                window.append((float(call.x[n, c, row, column]) if inside else fill, inside))
            yield (n, c, y, x), window


def by_definition(call: Call) -> np.ndarray[Any, Any]:
    """The forward of `call` as loops over the formulas of the specification's README."""
    layer, x, p = call.layer, call.x, call.parameters
    y = np.zeros((2, *call.geometry.output_shape))
    match layer.op:
        case "conv" | "local":
            windows = dict(padded_windows(call, 0.0))
            per, inputs = layer.out_channels // layer.groups, x.shape[1] // layer.groups
            for n, o, row, column in np.ndindex(*y.shape):
                at = (row, column) if layer.op == "local" else ()
                y[n, o, row, column] = p["bias"][(o, *at)] if layer.bias else 0.0
                for c in range(inputs):
                    window = windows[n, o // per * inputs + c, row, column]
                    for ij, (value, _) in enumerate(window):
                        i, j = divmod(ij, layer.kernel.width)
                        y[n, o, row, column] += p["weight"][(o, c, i, j, *at)] * value
        case "max_pool":
            for place, window in padded_windows(call, -math.inf):
                y[place] = max(value for value, _ in window)
        case "avg_pool":
            for place, window in padded_windows(call, 0.0):
                count = sum(inside for _, inside in window) if layer.divisor == "inside" else len(window)
                y[place] = sum(value for value, _ in window) / count
        case "lrn":
            before, after = layer.window
            tower = x.shape[1] // layer.groups
            a = layer.alpha / layer.size if layer.alpha_over == "size" else layer.alpha
            for n, c, row, column in np.ndindex(*y.shape):
                first, last = max(c - before, c // tower * tower), min(c + after, c // tower * tower + tower - 1)
                s = layer.k + a * sum(x[n, j, row, column] ** 2 for j in range(first, last + 1))
                y[n, c, row, column] = x[n, c, row, column] / s**layer.beta
        case "spatial_norm":
            r, a = layer.size // 2, layer.alpha / layer.size**2
            for n, c, row, column in np.ndindex(*y.shape):
                near = x[n, c, max(0, row - r) : row + r + 1, max(0, column - r) : column + r + 1]
                y[n, c, row, column] = x[n, c, row, column] / (layer.k + a * (near**2).sum()) ** layer.beta
        case "dense":
            per, inputs = layer.out_features // layer.groups, x.shape[1] // layer.groups
            for n, o in np.ndindex(*y.shape):
                first = o // per * inputs
                y[n, o] = (p["bias"][o] if layer.bias else 0.0) + sum(
                    p["weight"][o, i] * x[n, first + i] for i in range(inputs)
                )
        case "relu":
            y = np.array([max(float(value), 0.0) for value in x.flat]).reshape(x.shape)
        case "tanh":
            y = np.array([layer.amplitude * math.tanh(layer.slope * value) for value in x.flat]).reshape(x.shape)
        case "dropout":
            keep = 1 - layer.rate
            if call.mask is None:
                y = x * (keep if layer.scale == "test" else 1)
            else:
                y = np.where(call.mask, x / (keep if layer.scale == "train" else 1), 0)
        case "flatten":
            _, height, width = call.geometry.input_shape
            for n, c, row, column in np.ndindex(*x.shape):
                y[n, (c * height + row) * width + column] = x[n, c, row, column]
    return y


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_forward_is_the_formula(case, training):
    call = call_of(case, training)
    y = FORWARD[call.layer.op](call)
    assert y.shape == (2, *call.geometry.output_shape)
    np.testing.assert_allclose(y, by_definition(call), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_backward_is_the_slope_of_the_forward(case, training):
    """Central differences along random directions: (L(t + h d) - L(t - h d)) / 2h = <dL/dt, d>, L = <random, y>."""
    call = call_of(case, training)
    random = np.random.default_rng(5)
    y = FORWARD[call.layer.op](call)
    dy = random.normal(size=y.shape)
    dx, gradients = BACKWARD[call.layer.op](call, y, dy)
    assert gradients.keys() == call.parameters.keys()
    for name, gradient in {"x": dx, **gradients}.items():
        value = call.x if name == "x" else call.parameters[name]
        assert gradient.shape == value.shape
        for _ in range(3):
            direction = random.normal(size=value.shape)
            h = 1e-6

            def along(t: float, name: str = name, direction: Any = direction) -> float:
                moved = Call(
                    call.geometry,
                    call.x + t * direction if name == "x" else call.x,
                    {k: v + t * direction if k == name else v for k, v in call.parameters.items()},
                    call.mask,
                )
                return float((dy * FORWARD[call.layer.op](moved)).sum())

            slope = (along(h) - along(-h)) / (2 * h)
            expected = float((gradient * direction).sum())
            assert slope == pytest.approx(expected, rel=1e-6, abs=1e-6), name


def test_of_equal_values_in_a_window_the_first_gets_the_gradient():
    call = call_of("max_pool")
    x = np.zeros_like(call.x)
    tied = Call(call.geometry, x)
    dx, _ = BACKWARD["max_pool"](tied, FORWARD["max_pool"](tied), np.ones((2, *call.geometry.output_shape)))
    # padding is minus infinity: the first place inside the map wins the first window
    assert dx[0, 0, 0, 0] == 1
    assert dx[0, 0, 0, 1] == 0
    assert dx.sum() == 2 * math.prod(call.geometry.output_shape)


def test_relu_has_no_slope_at_zero():
    call = call_of("relu")
    at_zero = Call(call.geometry, np.zeros_like(call.x))
    dx, _ = BACKWARD["relu"](at_zero, FORWARD["relu"](at_zero), np.ones_like(call.x))
    assert not dx.any()


def test_results_keep_the_dtype():
    for case in LAYERS:
        wide = call_of(case, training=True)
        call = Call(
            wide.geometry,
            wide.x.astype(np.float32),
            {k: v.astype(np.float32) for k, v in wide.parameters.items()},
            wide.mask,
        )
        y = FORWARD[call.layer.op](call)
        dx, gradients = BACKWARD[call.layer.op](call, y, y)
        assert {y.dtype, dx.dtype, *(g.dtype for g in gradients.values())} == {np.dtype(np.float32)}, case


def test_cross_entropy_and_its_slope():
    random = np.random.default_rng(3)
    z, labels = random.normal(size=(4, 6)) * 3, np.array([0, 5, 2, 2])
    softmax = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert cross_entropy(z, labels) == pytest.approx(-np.log(softmax[np.arange(4), labels]).mean(), rel=1e-13)
    assert cross_entropy(z, labels) == pytest.approx(tally(z, labels).loss / 4, rel=1e-13)
    d = random.normal(size=z.shape)
    slope = (cross_entropy(z + 1e-6 * d, labels) - cross_entropy(z - 1e-6 * d, labels)) / 2e-6
    assert slope == pytest.approx(float((cross_entropy_backward(z, labels) * d).sum()), rel=1e-7)


def test_saturated_logits_are_neither_clipped_nor_lost():
    z = np.array([[80.0, 0.0, -80.0], [0.0, 1e4, -1e4]])
    assert cross_entropy(z, np.array([1, 2])) == pytest.approx((80.0 + 2e4) / 2)
    np.testing.assert_allclose(
        cross_entropy_backward(z, np.array([1, 2])), [[0.5, -0.5, 0], [0, 0.5, -0.5]], atol=1e-30
    )
