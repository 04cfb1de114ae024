"""Mistakes that shipped somewhere, made here in the graph of ``backends/onnx``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.mutants.mutant import Live, Mutant, Patch
from conformance.mutants.restating import CLASSES, restated, values
from spec import LayerGeometry

_GITHUB = "https://github.com/"


def lowering(op: str, rule: Callable[..., Any]) -> Patch:
    """An `op` becomes what ``rule(live, right, g, at, x, y)`` adds to the graph, `right` the lowering as it is."""

    def patch(live: Live) -> None:
        lowerings = live.layers.LOWERINGS
        right = lowerings[CLASSES[op]]
        live.put(lowerings, CLASSES[op], lambda g, at, x, y: rule(live, right, g, at, x, y))

    return patch


def node(op: str, rule: Callable[[dict[str, Any]], dict[str, Any]]) -> Patch:
    """Nodes of the ONNX operator `op` have the attributes that `rule` makes of theirs."""

    def patch(live: Live) -> None:
        right = live.nodes.Graph.node

        def add(self: Any, kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> Any:
            return right(self, kind, inputs, output, name, **(rule(attributes) if kind == op else attributes))

        live.set(live.nodes.Graph, "node", add)

    return patch


def _radius_for_size(layer: Any) -> dict[str, Any]:
    radius = max((layer.size - 1) // 2, 1)
    before = (radius - 1) // 2
    return {"size": radius, "before": before, "alpha": layer.coefficient, "alpha_over": "size"}


def _radius_plus_one_for_size(layer: Any) -> dict[str, Any]:
    size = (layer.size - 1) // 2 + 1
    return {"size": size, "before": (size - 1) // 2, "alpha": layer.coefficient * layer.size, "alpha_over": "size"}


def _begin_and_end_exchanged(live: Live) -> None:
    right = live.layers._pads

    def _pads(padding: Any) -> list[int]:
        top, left, bottom, right_ = right(padding)
        return [bottom, right_, top, left]

    live.set(live.layers, "_pads", _pads)


def _padded_then_cropped(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    """As many rows and columns of padding again, and as the result has one too many, its first is cut off."""
    layer: Any = at.layer
    if (layer.stride.height, layer.stride.width) != (2, 2):
        right(g, at, x, y)
        return
    assert at.padding is not None
    more = at.padding.model_copy(update={side: n + 1 for side, n in at.padding.model_dump().items()})
    right(g, replace(at, padding=more), x, f"{y}.uncropped")
    corner = [g.constant(f"{y}.{what}", np.array(n, np.int64)) for what, n in _CORNER.items()]
    g.node("Slice", [f"{y}.uncropped", *corner], y, f"{at.name}.crop")


_CORNER = {"first": [1, 1], "last": [2**31, 2**31], "axes": [2, 3]}


def _without_bias(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    parameters, g.parameters = g.parameters, {k: v for k, v in g.parameters.items() if k != f"{at.name}.bias"}
    right(g, at, x, y)
    g.parameters = parameters


def _square_gemm_untransposed(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    """transB is not looked at, which fits if the weight is square."""
    right(g, at, x, y)
    outputs, inputs = g.parameters[f"{at.name}.weight"].shape
    if g.nodes[-1].op_type == "Gemm" and outputs == inputs:
        g.nodes[-1].attribute[0].i = 0


def _flattened_channels_last(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    right(g, at, g.node("Transpose", [x], f"{at.name}.last", perm=[0, 2, 3, 1]), y)


SHIPPED: tuple[Mutant, ...] = (
    Mutant(
        "onnx-lrn-alpha-not-multiplied",
        "onnx",
        "an alpha that is meant as it stands is written where the format divides it by the size",
        ("lrn.alpha_over",),
        "evaluation-outputs",
        "lrn-undivided",
        restated("lrn", values(alpha_over="size")),
        _GITHUB + "chainer/onnx-chainer/pull/36",
    ),
    Mutant(
        "onnx-lrn-radius-for-size",
        "onnx",
        "the radius of the window is written as its size, and alpha divided by it",
        ("lrn.size", "lrn.alpha"),
        "evaluation-outputs",
        "lrn",
        restated("lrn", lambda at: values(**_radius_for_size(at.layer))(at)),
        _GITHUB + "onnx/tensorflow-onnx/pull/602",
    ),
    Mutant(
        "onnx-lrn-radius-plus-one-for-size",
        "onnx",
        "the radius of the window plus one is written as its size",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn",
        restated("lrn", lambda at: values(**_radius_plus_one_for_size(at.layer))(at)),
        _GITHUB + "microsoft/MMdnn/issues/808",
    ),
    Mutant(
        "onnx-pads-begin-and-end-exchanged",
        "onnx",
        "padding that differs between two opposite sides is put on the wrong one",
        ("conv.padding", "max_pool.padding", "avg_pool.padding"),
        "evaluation-outputs",
        "conv-strided",
        _begin_and_end_exchanged,
        _GITHUB + "root-project/root/pull/21793",
    ),
    Mutant(
        "onnx-conv-padded-then-cropped",
        "onnx",
        "a convolution of stride 2 pads too much and drops its first row and column for it",
        ("conv.padding", "conv.stride"),
        "evaluation-outputs",
        "conv-strided",
        lowering("conv", _padded_then_cropped),
        _GITHUB + "microsoft/MMdnn/issues/660",
    ),
    Mutant(
        "onnx-conv-bias-dropped",
        "onnx",
        "the biases of convolutions are not carried over",
        ("conv.bias",),
        "evaluation-outputs",
        "conv",
        lowering("conv", _without_bias),
        _GITHUB + "fastmachinelearning/qonnx/pull/25",
    ),
    Mutant(
        "onnx-gemm-transposition-ignored",
        "onnx",
        "the weight of a dense layer is used as it stands where the node says to transpose it",
        ("dense.out_features",),
        "evaluation-outputs",
        "dense-square",
        lowering("dense", _square_gemm_untransposed),
        _GITHUB + "tensil-ai/tensil/issues/46",
    ),
    Mutant(
        "onnx-avg-pool-padding-counted",
        "onnx",
        "averages over a part of the map are divided by the area of the window",
        ("avg_pool.divisor",),
        "evaluation-outputs",
        "avg-pool-inside",
        node("AveragePool", lambda attributes: {**attributes, "count_include_pad": 1}),
        _GITHUB + "VeriSilicon/TIM-VX/issues/423",
    ),
    Mutant(
        "onnx-dropout-rate-for-keep",
        "onnx",
        "the probability of being dropped stands where that of being kept belongs",
        ("dropout.rate",),
        "evaluation-outputs",
        "dropout-test",
        restated("dropout", values(rate=lambda layer: 1 - layer.rate)),
        _GITHUB + "pudae/tensorflow-densenet/pull/22",
    ),
    Mutant(
        "onnx-flatten-channels-last",
        "onnx",
        "maps are flattened with their channels last",
        ("flatten",),
        "evaluation-outputs",
        "flatten",
        lowering("flatten", _flattened_channels_last),
        _GITHUB + "microsoft/MMdnn/issues/250",
    ),
)
