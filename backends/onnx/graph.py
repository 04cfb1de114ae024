"""The specification as an ONNX graph, made node by node: what one reads in a viewer is what the specification says.

The input is ``input`` (batch, C, H, W), the output ``logits`` (batch, classes), the batch is free. Every layer is the
node of its name, whose output is the tensor of its name; what else a layer needs is named ``layer.what``. Parameters
are initializers under their canonical names and in their canonical shapes, so that they can be read back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backends.base import Array, Arrays, Unsupported, check_arrays
from spec import LayerGeometry, Spec, geometry
from spec.language import AvgPool, Conv, Dense, Dropout, Flatten, Local, Lrn, MaxPool, Padding, Relu, SpatialNorm, Tanh

OPSET = 18
"""The newest operator set whose files carry IR version 8; ONNX Runtime reads both since 1.14 (early 2023)."""
IR_VERSION = 8
"""Stated, because onnx writes its newest by default, which runtimes of the same month refuse."""
INPUT, LOGITS, BATCH = "input", "logits", "batch"
PIXELS, PROBABILITIES = "pixels", "probabilities"
"""What export may put before and behind the network; no layer's tensor is called so."""
MAX_BYTES = 2**31 - 2**20
"""Protobuf refuses a message of 2 GiB; the rest of the graph has a megabyte."""
BAND_CHANNELS = 512
"""Up to this many channels (of one group) the sum of LRN is a 1x1 convolution by a band matrix, beyond it a convolution
along the channels. On ONNX Runtime's CPU kernels the band is the faster of the two for AlexNet's 48 to 256 channels,
although it multiplies by zeros; its cost grows with the square of the channels."""

LrnLowering = Literal["ops", "node"]


def tensor_names(spec: Spec) -> dict[str, str]:
    """The tensor that holds each layer's output: the layer's name; ``logits`` for the last."""
    names = {layer.name: layer.name for layer in spec.layers}
    for reserved in {INPUT, LOGITS, PIXELS, PROBABILITIES} & names.keys():
        names[reserved] = f"{reserved}.output"
    names[spec.layers[-1].name] = LOGITS
    return names


class _Graph:
    """Nodes and initializers under construction."""

    def __init__(self, parameters: Arrays, lrn: LrnLowering) -> None:
        self.parameters, self.lrn = parameters, lrn
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        """Append a node; its name is its output's unless stated. Returns the name of its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name or output, **attributes))
        return output

    def constant(self, name: str, value: Array | float) -> str:
        """An initializer: a number as float32, an array as it is."""
        array = np.ascontiguousarray(value if isinstance(value, np.ndarray) else np.float32(value))
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def reshape(self, x: str, shape: tuple[int, ...], output: str, name: str = "") -> str:
        return self.node("Reshape", [x, self.constant(f"{output}.shape", np.array(shape, np.int64))], output, name)

    def layer_parameters(self, name: str) -> list[str]:
        """The initializers of a layer: its weight, and its bias if it has one."""
        found = [f"{name}.{what}" for what in ("weight", "bias") if f"{name}.{what}" in self.parameters]
        return [self.constant(parameter, np.asarray(self.parameters[parameter], np.float32)) for parameter in found]


# --- layers: from the input tensor x to the output tensor y ---------------------------------------------------------


def _pads(padding: Padding | None) -> list[int]:
    assert padding is not None
    return [padding.top, padding.left, padding.bottom, padding.right]


def _window(at: LayerGeometry) -> dict[str, Any]:
    layer: Any = at.layer
    return {
        "kernel_shape": [layer.kernel.height, layer.kernel.width],
        "strides": [layer.stride.height, layer.stride.width],
        "pads": _pads(at.padding),
    }


def _conv(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Conv = at.layer  # type: ignore[assignment]
    g.node("Conv", [x, *g.layer_parameters(at.name)], y, at.name, group=layer.groups, **_window(at))


def _local(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    """Windows are gathered as (G, places, N, C/G * kh * kw) and multiplied by one matrix per group and place."""
    layer: Local = at.layer  # type: ignore[assignment]
    name, groups, (channels, height, width) = at.name, layer.groups, at.input_shape
    outputs, rows, columns = at.output_shape
    top, left, bottom, right = _pads(at.padding)
    wide = width + left + right
    kh, kw, places = layer.kernel.height, layer.kernel.width, rows * columns
    per_group = channels // groups * kh * kw

    corner = np.arange(rows)[:, None] * layer.stride.height * wide + np.arange(columns) * layer.stride.width
    offset = np.arange(kh)[:, None] * wide + np.arange(kw)
    index = (offset.reshape(-1, 1) + corner.reshape(1, -1)).astype(np.int64)  # (kh * kw, places)

    if any((top, left, bottom, right)):
        pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        x = g.node("Pad", [x, g.constant(f"{name}.pads", pads)], f"{name}.padded")
    flat = g.reshape(x, (-1, channels, (height + top + bottom) * wide), f"{name}.flat")
    taken = g.node("Gather", [flat, g.constant(f"{name}.places", index)], f"{name}.taken", axis=2)
    split = g.reshape(taken, (-1, groups, per_group, places), f"{name}.windows")
    left_side = g.node("Transpose", [split], f"{name}.rows", perm=[1, 3, 0, 2])

    weight, *bias = g.layer_parameters(name)
    matrix = g.reshape(weight, (groups, outputs // groups, per_group, places), f"{name}.matrix")
    right_side = g.node("Transpose", [matrix], f"{name}.columns", perm=[0, 3, 2, 1])
    product = g.node("MatMul", [left_side, right_side], f"{name}.product")  # (G, places, N, O/G)
    ordered = g.node("Transpose", [product], f"{name}.ordered", perm=[2, 0, 3, 1])
    shape = (-1, outputs, rows, columns)
    if bias:
        g.node("Add", [g.reshape(ordered, shape, f"{name}.maps"), bias[0]], y, name)
    else:
        g.reshape(ordered, shape, y, name)


def _max_pool(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    g.node("MaxPool", [x], y, at.name, **_window(at))


def _avg_pool(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: AvgPool = at.layer  # type: ignore[assignment]
    g.node("AveragePool", [x], y, at.name, count_include_pad=int(layer.divisor == "window"), **_window(at))


def _normalised(g: _Graph, layer: Lrn | SpatialNorm, x: str, base: str, y: str) -> None:
    """y = x / base ** beta; by square roots where they suffice, because a general power costs about twenty of them."""
    name = layer.name
    if layer.beta == 1:
        power = base
    elif layer.beta == 0.5:
        power = g.node("Sqrt", [base], f"{name}.power")
    elif layer.beta == 0.75:
        root = g.node("Sqrt", [base], f"{name}.root")
        power = g.node("Mul", [root, g.node("Sqrt", [root], f"{name}.root_of_root")], f"{name}.power")
    else:
        power = g.node("Pow", [base, g.constant(f"{name}.beta", layer.beta)], f"{name}.power")
    g.node("Div", [x, power], y, name)


def _band(layer: Lrn, channels: int) -> Array:
    """(C, C / groups, 1, 1): row i has the layer's coefficient at the channels that its window sees."""
    within = channels // layer.groups
    before, after = layer.window
    one, other = np.arange(channels)[:, None] % within, np.arange(within)[None, :]
    seen = (other >= one - before) & (other <= one + after)
    return (seen * layer.coefficient).astype(np.float32)[:, :, None, None]


def _lrn(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Lrn = at.layer  # type: ignore[assignment]
    name, groups, (channels, height, width) = at.name, layer.groups, at.input_shape
    before, after = layer.window
    if g.lrn == "node" and before == after:  # the node's window is centred, and runtimes refuse an even one
        attributes: dict[str, Any] = {
            "alpha": layer.coefficient * layer.size,
            "beta": layer.beta,
            "bias": layer.k,
            "size": layer.size,
        }
        if groups == 1:
            g.node("LRN", [x], y, name, **attributes)
        else:  # groups are slices of the channels: as images of their own they cannot see each other
            apart = g.reshape(x, (-1, channels // groups, height, width), f"{name}.apart")
            inside = g.node("LRN", [apart], f"{name}.inside", **attributes)
            g.reshape(inside, (-1, channels, height, width), y, name)
        return
    square = g.node("Mul", [x, x], f"{name}.square")
    if channels // groups <= BAND_CHANNELS:
        band = _band(layer, channels)
        base = _weighted_sum(g, layer, square, f"{name}.base", channels, band, group=groups)
    else:  # a column of the window's height, moved along the channels
        rows = g.reshape(square, (-1, groups, channels // groups, height * width), f"{name}.rows")
        column = np.full((groups, 1, layer.size, 1), layer.coefficient, np.float32)
        pads = [before, 0, after, 0]
        sums = _weighted_sum(g, layer, rows, f"{name}.sums", groups, column, group=groups, pads=pads)
        base = g.reshape(sums, (-1, channels, height, width), f"{name}.base")
    _normalised(g, layer, x, base, y)


def _weighted_sum(
    g: _Graph, layer: Lrn | SpatialNorm, squares: str, output: str, channels: int, weight: Array, **window: Any
) -> str:
    """k + coefficient * sum of squares as one convolution; `weight` has the coefficient wherever the sum reaches."""
    weights = g.constant(f"{layer.name}.window", weight)
    k = g.constant(f"{layer.name}.k", np.full(channels, layer.k, np.float32))
    return g.node("Conv", [squares, weights, k], output, kernel_shape=list(weight.shape[2:]), **window)


def _spatial_norm(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: SpatialNorm = at.layer  # type: ignore[assignment]
    channels, pads = at.input_shape[0], [layer.size // 2] * 4
    square = g.node("Mul", [x, x], f"{at.name}.square")
    window = np.full((channels, 1, layer.size, layer.size), layer.coefficient, np.float32)
    base = _weighted_sum(g, layer, square, f"{at.name}.base", channels, window, group=channels, pads=pads)
    _normalised(g, layer, x, base, y)


def _relu(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    g.node("Relu", [x], y, at.name)


def _tanh(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Tanh = at.layer  # type: ignore[assignment]
    if layer.slope != 1:
        x = g.node("Mul", [x, g.constant(f"{at.name}.slope", layer.slope)], f"{at.name}.steep")
    if layer.amplitude == 1:
        g.node("Tanh", [x], y, at.name)
    else:
        inner = g.node("Tanh", [x], f"{at.name}.unit")
        g.node("Mul", [inner, g.constant(f"{at.name}.amplitude", layer.amplitude)], y, at.name)


def _dropout(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Dropout = at.layer  # type: ignore[assignment]
    if layer.scale == "test" and layer.rate > 0:
        g.node("Mul", [x, g.constant(f"{at.name}.keep", 1 - layer.rate)], y, at.name)
    else:
        g.node("Identity", [x], y, at.name)


def _flatten(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    g.node("Flatten", [x], y, at.name, axis=1)


def _dense(g: _Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Dense = at.layer  # type: ignore[assignment]
    name, groups, (features,) = at.name, layer.groups, at.input_shape
    weight, *bias = g.layer_parameters(name)
    if groups == 1:
        g.node("Gemm", [x, weight, *bias], y, name, transB=1)
        return
    split = g.reshape(x, (-1, groups, features // groups), f"{name}.split")
    rows = g.node("Transpose", [split], f"{name}.rows", perm=[1, 0, 2])  # (G, N, in/G)
    matrix = g.reshape(weight, (groups, layer.out_features // groups, features // groups), f"{name}.matrix")
    columns = g.node("Transpose", [matrix], f"{name}.columns", perm=[0, 2, 1])
    product = g.node("MatMul", [rows, columns], f"{name}.product")
    ordered = g.node("Transpose", [product], f"{name}.ordered", perm=[1, 0, 2])
    shape = (-1, layer.out_features)
    if bias:
        g.node("Add", [g.reshape(ordered, shape, f"{name}.sums"), bias[0]], y, name)
    else:
        g.reshape(ordered, shape, y, name)


_LOWERINGS: dict[type, Callable[[_Graph, LayerGeometry, str, str], None]] = {
    Conv: _conv,
    Local: _local,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    Lrn: _lrn,
    SpatialNorm: _spatial_norm,
    Relu: _relu,
    Tanh: _tanh,
    Dropout: _dropout,
    Flatten: _flatten,
    Dense: _dense,
}


def build(
    spec: Spec,
    parameters: Arrays,
    *,
    lrn: LrnLowering = "ops",
    outputs: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The network of `spec` in evaluation, float32, with `parameters` (canonical names and layout).

    lrn: ``node`` uses ONNX's LRN node where it can say what the layer means, ``ops`` elementary operators everywhere.
    outputs: names of layers whose outputs the model also returns, in network order, before ``logits``.
    metadata: entries of the file's own beside those that are always there: ``spec.name``, ``spec.hash``, ``spec.json``
    (the full text), ``lrn`` and ``precision``.
    Raises ValueError for wrong parameters or an unknown layer, Unsupported if the file would exceed what ONNX can hold.
    """
    check_arrays(parameters, spec, "the parameters of an ONNX model")
    network = geometry(spec)
    if 4 * network.parameter_count > MAX_BYTES:
        raise Unsupported(
            f"an ONNX file holds at most 2 GiB. Received: {network.parameter_count} parameters of 4 bytes"
        )
    wanted = set(outputs)
    unknown = wanted - {layer.name for layer in spec.layers}
    if unknown:
        raise ValueError(f"outputs must be layers of {spec.name}. Received: {', '.join(sorted(unknown))}")

    tensors, shapes = tensor_names(spec), {layer.name: layer.output_shape for layer in network.layers}
    g, x = _Graph(parameters, lrn), INPUT
    for layer in network.layers:
        y = tensors[layer.name]
        _LOWERINGS[type(layer.layer)](g, layer, x, y)
        x = y

    def value(tensor: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [BATCH, *shape])

    returned = [layer.name for layer in spec.layers[:-1] if layer.name in wanted]
    graph = helper.make_graph(
        g.nodes,
        spec.name,
        [value(INPUT, network.input_shape)],
        [value(tensors[name], shapes[name]) for name in (*returned, spec.layers[-1].name)],
        g.initializers,
        doc_string=spec.title,
        value_info=[
            value(tensors[name], shapes[name]) for name in tensors if name not in (*returned, spec.layers[-1].name)
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="executable-alexnet",
        doc_string=f"{spec.title}. Input: float32, NCHW ({BATCH}, {', '.join(map(str, network.input_shape))}).",
    )
    describe(model, spec, {"lrn": lrn, **(metadata or {})})
    return model


def describe(model: onnx.ModelProto, spec: Spec, metadata: Mapping[str, str]) -> None:
    """Let `model` state its specification's name, hash and full text, and `metadata`."""
    stated = {
        "spec.name": spec.name,
        "spec.hash": spec.hash,
        "spec.json": json.dumps(spec.statement(), separators=(",", ":")),
        "precision": "float32",
    }
    helper.set_model_props(model, {**stated, **metadata})


def parameters_of(model: onnx.ModelProto, spec: Spec) -> dict[str, Array]:
    """The parameters in `model`, by canonical name in network order. Raises KeyError if one is missing."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    return {name: numpy_helper.to_array(found[name]) for name in geometry(spec).parameters}


def network_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network in `model` from ``input`` to ``logits``, without what export put before and behind it."""
    return onnx.utils.Extractor(model).extract_model([INPUT], [LOGITS])


__all__ = [
    "BATCH",
    "INPUT",
    "IR_VERSION",
    "LOGITS",
    "OPSET",
    "LrnLowering",
    "build",
    "network_only",
    "parameters_of",
    "tensor_names",
]
