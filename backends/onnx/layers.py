"""Every layer of the language as nodes of ONNX: from the input tensor x to the output tensor y."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.onnx.nodes import Graph
from backends.onnx.norms import lrn, spatial_norm
from spec import LayerGeometry
from spec.language import AvgPool, Conv, Dense, Dropout, Flatten, Local, Lrn, MaxPool, Padding, Relu, SpatialNorm, Tanh


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


def _conv(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Conv = at.layer  # type: ignore[assignment]
    g.node("Conv", [x, *g.layer_parameters(at.name)], y, at.name, group=layer.groups, **_window(at))


def _local(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
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


def _max_pool(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    g.node("MaxPool", [x], y, at.name, **_window(at))


def _avg_pool(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: AvgPool = at.layer  # type: ignore[assignment]
    g.node("AveragePool", [x], y, at.name, count_include_pad=int(layer.divisor == "window"), **_window(at))


def _relu(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    g.node("Relu", [x], y, at.name)


def _tanh(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Tanh = at.layer  # type: ignore[assignment]
    if layer.slope != 1:
        x = g.times(x, layer.slope, f"{at.name}.slope", f"{at.name}.steep")
    if layer.amplitude == 1:
        g.node("Tanh", [x], y, at.name)
    else:
        inner = g.node("Tanh", [x], f"{at.name}.unit")
        g.times(inner, layer.amplitude, f"{at.name}.amplitude", y, at.name)


def _dropout(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Dropout = at.layer  # type: ignore[assignment]
    if layer.scale == "test" and layer.rate > 0:
        g.times(x, 1 - layer.rate, f"{at.name}.keep", y, at.name)
    else:
        g.node("Identity", [x], y, at.name)


def _flatten(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    g.node("Flatten", [x], y, at.name, axis=1)


def _dense(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
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


LOWERINGS: dict[type, Callable[[Graph, LayerGeometry, str, str], None]] = {
    Conv: _conv,
    Local: _local,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    Lrn: lrn,
    SpatialNorm: spatial_norm,
    Relu: _relu,
    Tanh: _tanh,
    Dropout: _dropout,
    Flatten: _flatten,
    Dense: _dense,
}
