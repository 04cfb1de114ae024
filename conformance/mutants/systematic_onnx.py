"""Systematic mistakes in the graph of ``backends/onnx`` that no attribute is behind: operators, windows, parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.mutants import onnx
from conformance.mutants.mutant import Live, Mutant, Patch
from spec import LayerGeometry


def _band(rule: Callable[[Any], Any]) -> Patch:
    """The matrix that sums the squares over the window of one group, (C / groups, C / groups), is ``rule(matrix)``."""

    def patch(live: Live) -> None:
        right = live.norms._weighted_sum

        def weighted_sum(g: Any, layer: Any, squares: str, channels: int, weight: Any, **window: Any) -> str:
            if layer.op == "lrn":
                changed = rule(weight[: channels // layer.groups, :, 0, 0])
                weight = np.ascontiguousarray(np.tile(changed, (layer.groups, 1)), np.float32)[:, :, None, None]
            found: str = right(g, layer, squares, channels, weight, **window)
            return found

        live.set(live.norms, "_weighted_sum", weighted_sum)

    return patch


def _cyclic(band: Any) -> Any:
    """The windows at the border go on at the other end."""
    middle = band[len(band) // 2]
    return np.stack([np.roll(middle, i - len(band) // 2) for i in range(len(band))])


def _mean_inside(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    layer: Any = at.layer
    window = {"kernel_shape": [layer.size] * 2, "pads": [layer.size // 2] * 4, "count_include_pad": 0}
    mean = g.node("AveragePool", [g.node("Mul", [x, x], f"{at.name}.square")], f"{at.name}.mean", **window)
    scale = g.constant(f"{at.name}.scale", layer.coefficient * layer.size**2)
    scaled = g.node("Mul", [mean, scale], f"{at.name}.scaled")
    base = g.node("Add", [scaled, g.constant(f"{at.name}.k", layer.k)], f"{at.name}.base")
    live.norms._power(g, layer, x, base, y)


def _parameter(op: str, what: str, rule: Callable[..., Any]) -> Patch:
    """The parameter `what` of every `op` is ``rule(array, layer)``."""

    def lower(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
        parameters, name = g.parameters, f"{at.name}.{what}"
        if name in parameters:
            g.parameters = {**parameters, name: rule(parameters[name], at.layer)}
        right(g, at, x, y)
        g.parameters = parameters

    return onnx.lowering(op, lower)


def _instead(kind: str, **attributes: Any) -> Callable[..., Any]:
    """A node of another kind in the place of a layer."""
    return lambda live, right, g, at, x, y: g.node(kind, [x], y, at.name, **attributes)


def _zero_padded_max(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    top, left, bottom, right_ = live.layers._pads(at.padding)
    pads = g.constant(f"{at.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right_], np.int64))
    padded = g.node("Pad", [x, pads], f"{at.name}.padded")
    g.node("MaxPool", [padded], y, at.name, **{**live.layers._window(at), "pads": [0, 0, 0, 0]})


def _ends_in_softmax(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    if y != live.graph.LOGITS:
        right(g, at, x, y)
        return
    right(g, at, x, f"{y}.scores")
    g.node("Softmax", [f"{y}.scores"], y, f"{at.name}.softmax", axis=1)


def _bfloat16(live: Live) -> None:
    """Parameters lose their last 16 bits."""
    layer_parameters = live.nodes.Graph.layer_parameters

    def rounded(self: Any, name: str) -> Any:
        parameters = self.parameters
        self.parameters = {
            key: (np.asarray(value, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
            for key, value in parameters.items()
        }
        found = layer_parameters(self, name)
        self.parameters = parameters
        return found

    live.set(live.nodes.Graph, "layer_parameters", rounded)


def _other_half(array: Any, layer: Any) -> Any:
    return np.roll(array, len(array) // layer.groups, axis=0)


SYSTEMATIC: tuple[Mutant, ...] = (
    Mutant(
        "onnx-lrn-removed",
        "onnx",
        "response normalisation does nothing",
        ("lrn.alpha", "lrn.beta", "lrn.k"),
        "evaluation-outputs",
        "lrn",
        onnx.lowering("lrn", _instead("Identity")),
    ),
    Mutant(
        "onnx-lrn-without-neighbours",
        "onnx",
        "each channel is normalised by its own square alone",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn",
        _band(lambda band: band * np.eye(len(band))),
    ),
    Mutant(
        "onnx-lrn-window-mirrored",
        "onnx",
        "a lopsided window reaches to the other side",
        ("lrn.before",),
        "evaluation-outputs",
        "lrn-even",
        _band(lambda band: band.T),
    ),
    Mutant(
        "onnx-lrn-cyclic",
        "onnx",
        "the window goes on with the first channels behind the last",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn",
        _band(_cyclic),
    ),
    Mutant(
        "onnx-spatial-norm-mean-inside",
        "onnx",
        "at the border the mean of the squares is that of the part inside the map",
        ("spatial_norm.size",),
        "evaluation-outputs",
        "spatial-norm",
        onnx.lowering("spatial_norm", _mean_inside),
    ),
    Mutant(
        "onnx-max-pool-zero-padding",
        "onnx",
        "padding counts as zero, and wins over negative values",
        ("max_pool.padding",),
        "evaluation-outputs",
        "max-pool",
        onnx.lowering("max_pool", _zero_padded_max),
    ),
    Mutant(
        "onnx-relu-leaks",
        "onnx",
        "negative values come through at a hundredth",
        ("relu",),
        "evaluation-outputs",
        "relu-at-zero",
        onnx.lowering("relu", _instead("LeakyRelu", alpha=0.01)),
    ),
    Mutant(
        "onnx-relu-of-the-negative",
        "onnx",
        "the sign is changed instead of negative values being cut",
        ("relu",),
        "evaluation-outputs",
        "relu-at-zero",
        onnx.lowering("relu", _instead("Neg")),
    ),
    Mutant(
        "onnx-local-kernel-transposed",
        "onnx",
        "rows and columns of the kernels of a locally connected layer are exchanged",
        ("local.kernel",),
        "evaluation-outputs",
        "local-square",
        _parameter("local", "weight", lambda w, layer: np.swapaxes(w, 2, 3)),
    ),
    Mutant(
        "onnx-local-bias-of-one-place",
        "onnx",
        "every place of a locally connected layer has the bias of the first",
        ("local.bias",),
        "evaluation-outputs",
        "local-square",
        _parameter("local", "bias", lambda b, layer: np.broadcast_to(b[:, :1, :1], b.shape)),
    ),
    Mutant(
        "onnx-conv-group-weights-exchanged",
        "onnx",
        "each group of a convolution has the weights of the other",
        ("conv.groups",),
        "evaluation-outputs",
        "conv",
        _parameter("conv", "weight", _other_half),
    ),
    Mutant(
        "onnx-local-group-weights-exchanged",
        "onnx",
        "each group of a locally connected layer has the weights of the other",
        ("local.groups",),
        "evaluation-outputs",
        "local",
        _parameter("local", "weight", _other_half),
    ),
    Mutant(
        "onnx-dense-group-weights-exchanged",
        "onnx",
        "each group of a dense layer has the weights of the other",
        ("dense.groups",),
        "evaluation-outputs",
        "dense-grouped",
        _parameter("dense", "weight", _other_half),
    ),
    Mutant(
        "onnx-dense-bias-dropped",
        "onnx",
        "the biases of dense layers are zero",
        ("dense.bias",),
        "evaluation-outputs",
        "dense",
        _parameter("dense", "bias", lambda b, layer: b * 0),
    ),
    Mutant(
        "onnx-ends-in-softmax",
        "onnx",
        "the model returns probabilities under the name of logits",
        ("predict",),
        "evaluation-outputs",
        "dense",
        onnx.lowering("dense", _ends_in_softmax),
    ),
    Mutant(
        "onnx-weights-in-bfloat16",
        "onnx",
        "parameters are cut to 8 bits of mantissa on their way into the file",
        ("dtype",),
        "evaluation-outputs",
        "dense",
        _bfloat16,
    ),
)
