"""Small specifications to compare on: every variant made slim, and networks generated over the whole language."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from spec import GeometryError, LayerGeometry, Spec, from_values, geometry
from spec.arithmetic import follow

T = TypeVar("T")
Choose = Callable[[str, Sequence[Any]], Any]
"""(what is chosen, from what) -> one of them. A generator's draw, or hypothesis's, which can then shrink it."""

WIDTHS = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
"""Primes, so that no two layers are alike and no reshape fits by accident."""
CLASSES = 11
_WEIGHTED = ("conv", "local", "dense")


def slim(spec: Spec) -> Spec:
    """`spec` with its layers, its recipe and its conventions, but narrow, and on the smallest images that it can
    follow.

    The last maps keep at least two rows, so that the order in which they are flattened matters; if they have not two at
    full size, the images stay as they are.
    """
    values = spec.statement()
    values |= {"name": f"{spec.name}-slim", "expect": {}, "provenance": {}}
    layers = list(values["layers"].values())
    weighted = [i for i, layer in enumerate(layers) if layer["op"] in _WEIGHTED]
    for number, (i, following) in enumerate(zip(weighted, [*weighted[1:], len(layers) - 1], strict=True)):
        groups = math.lcm(*(layer.get("groups", 1) for layer in layers[i : following + 1]))
        width = "out_features" if layers[i]["op"] == "dense" else "out_channels"
        layers[i][width] = CLASSES if i == weighted[-1] else groups * WIDTHS[number % len(WIDTHS)]
    narrow = from_values(values)
    for size in range(4, spec.input.height):
        try:
            network = follow((spec.input.channels, size, size), narrow.layers)
        except GeometryError:
            continue
        flattened = next((g.input_shape for g in network.layers if g.layer.op == "flatten"), (0, 2, 2))
        if min(flattened[1:]) >= 2:
            return from_values(values | {"input": values["input"] | {"height": size, "width": size}})
    return narrow


def chooser(seed: int) -> Choose:
    """Choices by a generator."""
    draw = np.random.default_rng([seed, 2])
    return lambda what, options: options[int(draw.integers(len(options)))]


def generate(choose: Choose, name: str = "generated") -> Spec:
    """A small network with any ops, windows, groups and conventions of the language. Always valid."""
    shape: tuple[int, ...] = (choose("input channels", (2, 3, 6)), *(2 * [choose("input size", (11, 13, 9))]))
    layers: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {
        "name": name,
        "title": "A generated network",
        "input": dict(zip(("channels", "height", "width"), shape, strict=True)),
        "layers": layers,
        "init": {"weight": {"kind": "normal", "std": 0.1}, "bias": {"kind": "constant", "value": 0.5}},
        "training": _training(choose),
        "data": {
            "storage": {"size": shape[1], "fit": "stretch"},
            "channel_order": "rgb",
            "scale": 1.0,
            "mean": {"kind": "none"},
            "crop": {"kind": "center"},
            "flip": {"probability": 0.0},
        },
        "evaluation": {"crops": "center", "average": "probabilities"},
    }

    def add(layer: dict[str, Any]) -> None:
        nonlocal shape
        layers[f"{layer['op']}{len(layers) + 1}"] = layer
        tail = {} if len(shape) == 1 or layer["op"] == "flatten" else {"end": {"op": "flatten"}}
        found = geometry(from_values(values | {"layers": layers | tail})).layers[len(layers) - 1]
        if layer["op"] in ("conv", "local") and layer["rounding"] == "ceil" and _sees_nothing(found):
            layer["rounding"] = "floor"
            found = geometry(from_values(values | {"layers": layers | tail})).layers[len(layers) - 1]
        shape = found.output_shape

    for stage in range(choose("stages", (2, 3, 1))):
        for make in _stage(choose, stage):
            add(make(shape))
    add({"op": "flatten"})
    for number in range(choose("hidden dense layers", (1, 0))):
        groups = choose("groups", [g for g in (1, 2, 3) if shape[0] % g == 0])
        add(
            {"op": "dense", "out_features": 6 * WIDTHS[number], "groups": groups, "bias": choose("bias", (True, False))}
        )
        add(_activation(choose))
        add({"op": "dropout", "rate": choose("rate", (0.5, 0.2, 0.0)), "scale": choose("scale", ("test", "train"))})
    add({"op": "dense", "out_features": CLASSES})
    return from_values(values)


def ties() -> Spec:
    """A network that decides between equal numbers, on images of whole numbers: which of them gets the gradient?

    It begins with the pooling, so that nothing has been rounded; padding stands beside negative numbers; and zeros,
    tied or not, reach a ReLU.
    """
    pooling = {"kernel": 3, "stride": 2, "padding": {"top": 1, "bottom": 0, "left": 0, "right": 2}, "rounding": "ceil"}
    values = generate(chooser(0), "ties").statement()
    values["input"] = {"channels": 5, "height": 9, "width": 9}
    values["data"]["storage"]["size"] = 9
    values["layers"] = {
        "pool1": {"op": "max_pool", **pooling},
        "relu1": {"op": "relu"},
        "flatten": {"op": "flatten"},
        "fc": {"op": "dense", "out_features": CLASSES},
    }
    return from_values(values)


Make = Callable[[tuple[int, ...]], dict[str, Any]]


def _stage(choose: Choose, number: int) -> list[Make]:
    """A layer with weights, then an activation, a normalisation, a pooling and a dropout in some order, or fewer."""
    followers: dict[str, Make] = {
        "activation": lambda shape: _activation(choose),
        "norm": lambda shape: _norm(choose, shape),
        "pool": lambda shape: _pool(choose, shape),
        "dropout": lambda shape: {
            "op": "dropout",
            "rate": choose("rate", (0.25, 0.5)),
            "scale": choose("scale", ("test", "train")),
        },
    }
    orders = (
        ("activation", "norm", "pool"),
        ("norm", "pool", "activation"),
        ("pool", "activation", "dropout"),
        ("activation", "pool", "norm"),
        ("norm", "activation"),
        ("activation",),
    )
    return [lambda shape: _conv(choose, shape, number), *(followers[what] for what in choose("order", orders))]


def _side(choose: Choose, what: str, length: int, options: Sequence[int]) -> int:
    chosen: int = choose(what, [k for k in options if k <= length] or [1])
    return chosen


def _sees_nothing(at: LayerGeometry) -> bool:
    """Whether the last window lies in the padding alone, so that its output is the bias: numbers that tie."""
    layer: Any = at.layer
    assert at.padding is not None
    rows: bool = (at.output_shape[1] - 1) * layer.stride.height - at.padding.top >= at.input_shape[1]
    columns: bool = (at.output_shape[2] - 1) * layer.stride.width - at.padding.left >= at.input_shape[2]
    return rows or columns


def _window(choose: Choose, shape: tuple[int, ...], kernels: Sequence[int]) -> dict[str, Any]:
    """A kernel no larger than the map, a stride, paddings smaller than the kernel, a rounding."""
    kernel = {
        "height": _side(choose, "kernel height", shape[1], kernels),
        "width": _side(choose, "kernel width", shape[2], kernels),
    }
    sides = {"top": "height", "bottom": "height", "left": "width", "right": "width"}
    return {
        "kernel": kernel,
        "stride": {"height": choose("stride", (1, 2, 3)), "width": choose("stride", (2, 1))},
        "padding": {
            side: choose("padding", [p for p in (0, 1, 2) if p < kernel[along]]) for side, along in sides.items()
        },
        "rounding": choose("rounding", ("floor", "ceil")),
    }


def _conv(choose: Choose, shape: tuple[int, ...], number: int) -> dict[str, Any]:
    op = choose("convolution", ("conv", "conv", "local"))
    groups = choose("groups", [g for g in (1, 2, 3) if shape[0] % g == 0])
    window = _window(choose, shape, (3, 2, 4, 1))
    return {
        "op": op,
        "out_channels": 6 * (2 + number),
        "groups": groups,
        "bias": choose("bias", (True, False)),
        **window,
    }


def _pool(choose: Choose, shape: tuple[int, ...]) -> dict[str, Any]:
    window = _window(choose, shape, (3, 2))
    if choose("pool", ("max_pool", "avg_pool")) == "max_pool":
        return {"op": "max_pool", **window}
    return {"op": "avg_pool", "divisor": choose("divisor", ("window", "inside")), **window}


def _norm(choose: Choose, shape: tuple[int, ...]) -> dict[str, Any]:
    common = {
        "alpha": choose("alpha", (1e-4, 0.01, 0.5)),
        "beta": choose("beta", (0.75, 0.5, 1.0)),
        "k": choose("k", (2.0, 1.0, 0.5)),
    }
    if choose("norm", ("lrn", "lrn", "spatial_norm")) == "spatial_norm":
        size = choose("size", (3, 5))
        return {"op": "spatial_norm", "size": size, "alpha_over": choose("alpha_over", ("area", "one")), **common}
    size = choose("size", (5, 4, 2, 3))
    return {
        "op": "lrn",
        "size": size,
        "before": choose("before", range(size)),
        "alpha_over": choose("alpha_over", ("size", "one")),
        "groups": choose("groups", (1, 2, 3)),
        **common,
    }


def _activation(choose: Choose) -> dict[str, Any]:
    if choose("activation", ("relu", "relu", "tanh")) == "relu":
        return {"op": "relu"}
    return {"op": "tanh", "amplitude": choose("amplitude", (1.7159, 1.0)), "slope": choose("slope", (0.6667, 1.0))}


def _training(choose: Choose) -> dict[str, Any]:
    """A recipe whose rates drop, differ between weights and biases, and freeze something on the way."""
    freeze = [{"epoch": 0, "rate": 0.02}, {"epoch": 2, "rate": 0.0}, {"epoch": 3, "rate": 0.01}]
    return {
        "batch_size": 4,
        "epochs": 5,
        "loss": "softmax_cross_entropy",
        "optimizer": {
            "kind": "sgd",
            "momentum": choose("momentum", (0.9, 0.0, 0.5)),
            "learning_rate_in_velocity": choose("learning_rate_in_velocity", (True, False)),
            "decay": choose("decay", ("coupled", "decoupled")),
        },
        "learning_rate": {
            "*": {"kind": "step", "rate": 0.01, "factor": 0.1, "every": 2, "unit": "epoch"},
            "*.bias": {"kind": "stages", "stages": freeze},
        },
        "weight_decay": {"*": 0.05, "*.bias": choose("decay of biases", (0.0, 0.1))},
    }
