"""Normalisation as elementary operators: y = x / (k + coefficient * sum of squares)**beta, always in float32.

The sum over neighbouring channels has three forms of the same meaning, chosen by what is fastest on ONNX Runtime's CPU
kernels (2 cores, AVX2; nanoseconds of one core for each element):

=====================================  ========================================================  =====================
form                                   where                                                     48 / 96 / 256 channels
=====================================  ========================================================  =====================
a 1x1 convolution by a band matrix     up to BAND_CHANNELS in a group; its cost grows with them  1.7 / 3.0 / 6.5
an average pool along the channels     more channels                                             2.4 / 2.3 / 2.5
the same, channels being last          beside integer convolutions                               1.3 / 1.3 / 1.3
the node LRN                           `lrn` is ``node`` and the window is centred               29, and not in parallel
=====================================  ========================================================  =====================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.base import Array
from backends.onnx.nodes import Graph
from spec import LayerGeometry
from spec.language import Lrn, SpatialNorm

BAND_CHANNELS = 96
"""See above; with AVX-512 the band pays for itself up to about 160."""


def lrn(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    """Across channels; the window of each group sees that group alone."""
    layer: Lrn = at.layer  # type: ignore[assignment]
    before, after = layer.window
    if g.lrn == "node" and before == after:  # the node's window is centred, and runtimes refuse an even one
        _in_float32(g, at, x, y, _node)
    elif g.channels_last:
        _in_float32(g, at, x, y, _channels_last)
    elif at.input_shape[0] // layer.groups <= BAND_CHANNELS:
        _in_float32(g, at, x, y, _band)
    else:
        _in_float32(g, at, x, y, _pooled)


def spatial_norm(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    """Over a square of places, of each channel by itself."""
    _in_float32(g, at, x, y, _square_last if g.channels_last else _square)


def _in_float32(g: Graph, at: LayerGeometry, x: str, y: str, lowering: Any) -> None:
    """Squares of numbers beyond 255 exceed the largest float16, and the sum loses digits in either half precision."""
    if g.precision == "float32":
        lowering(g, at, x, y)
        return
    lowering(g, at, g.cast(x, "float32", f"{at.name}.wide"), f"{at.name}.normalised")
    g.cast(f"{at.name}.normalised", g.precision, y, f"{at.name}.narrow")


def _node(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Lrn = at.layer  # type: ignore[assignment]
    name, groups, (channels, height, width) = at.name, layer.groups, at.input_shape
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


def _band(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: Lrn = at.layer  # type: ignore[assignment]
    channels, (before, after) = at.input_shape[0], layer.window
    within = channels // layer.groups
    one, other = np.arange(channels)[:, None] % within, np.arange(within)[None, :]
    seen = (other >= one - before) & (other <= one + after)
    weight = (seen * layer.coefficient).astype(np.float32)[:, :, None, None]
    square = g.node("Mul", [x, x], f"{at.name}.square")
    _power(g, layer, x, _weighted_sum(g, layer, square, channels, weight, group=layer.groups), y)


def _pooled(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    """Channels are a depth, along which the pool moves, and groups are channels."""
    layer: Lrn = at.layer  # type: ignore[assignment]
    name, (channels, height, width) = at.name, at.input_shape
    square = g.node("Mul", [x, x], f"{name}.square")
    shape = (-1, layer.groups, channels // layer.groups, height, width)
    mean = _mean(g, layer, g.reshape(square, shape, f"{name}.deep"), [layer.size, 1, 1])
    _power(g, layer, x, _base(g, layer, g.reshape(mean, (-1, channels, height, width), f"{name}.flat")), y)


def _channels_last(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    """As :func:`_pooled` between two transpositions, which cancel with those of the integer layers around it.

    Three dimensions of window, of which one moves: maps of four dimensions would be reordered for the pool.
    """
    layer: Lrn = at.layer  # type: ignore[assignment]
    groups, (channels, height, width) = layer.groups, at.input_shape
    shape = (-1, height, 1, width * groups, channels // groups)
    _between_transpositions(g, at, x, y, shape, [1, 1, layer.size])


def _square_last(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    """A pool whose window moves over rows and columns, the channels being a third dimension."""
    layer: SpatialNorm = at.layer  # type: ignore[assignment]
    channels, height, width = at.input_shape
    _between_transpositions(g, at, x, y, (-1, 1, height, width, channels), [layer.size, layer.size, 1])


def _between_transpositions(
    g: Graph, at: LayerGeometry, x: str, y: str, shape: tuple[int, ...], kernel: list[int]
) -> None:
    layer: Lrn | SpatialNorm = at.layer  # type: ignore[assignment]
    name, (channels, height, width) = at.name, at.input_shape
    last = g.node("Transpose", [x], f"{name}.last", perm=[0, 2, 3, 1])
    square = g.node("Mul", [last, last], f"{name}.square")
    mean = _mean(g, layer, g.reshape(square, shape, f"{name}.rows"), kernel)
    flat = g.reshape(mean, (-1, height, width, channels), f"{name}.flat")
    _power(g, layer, last, _base(g, layer, flat), f"{name}.quotient", f"{name}.quotient")
    g.node("Transpose", [f"{name}.quotient"], y, name, perm=[0, 3, 1, 2])


def _mean(g: Graph, layer: Lrn | SpatialNorm, squares: str, kernel: list[int]) -> str:
    """The mean over the window of `layer`, beyond the ends of which are zeros."""
    before, after = layer.window if isinstance(layer, Lrn) else (layer.size // 2, layer.size // 2)
    pads = [extent if size > 1 else 0 for extent in (before, after) for size in kernel]
    return g.node("AveragePool", [squares], f"{layer.name}.mean", kernel_shape=kernel, pads=pads, count_include_pad=1)


def _base(g: Graph, layer: Lrn | SpatialNorm, mean: str) -> str:
    places = layer.size if isinstance(layer, Lrn) else layer.size**2
    alpha = g.constant(f"{layer.name}.alpha", layer.coefficient * places)
    scaled = g.node("Mul", [mean, alpha], f"{layer.name}.scaled")
    return g.node("Add", [scaled, g.constant(f"{layer.name}.k", layer.k)], f"{layer.name}.base")


def _square(g: Graph, at: LayerGeometry, x: str, y: str) -> None:
    layer: SpatialNorm = at.layer  # type: ignore[assignment]
    channels, pads = at.input_shape[0], [layer.size // 2] * 4
    square = g.node("Mul", [x, x], f"{at.name}.square")
    window = np.full((channels, 1, layer.size, layer.size), layer.coefficient, np.float32)
    _power(g, layer, x, _weighted_sum(g, layer, square, channels, window, group=channels, pads=pads), y)


def _weighted_sum(g: Graph, layer: Lrn | SpatialNorm, squares: str, channels: int, weight: Array, **window: Any) -> str:
    """k + coefficient * sum of squares as one convolution; `weight` has the coefficient wherever the sum reaches."""
    weights = g.constant(f"{layer.name}.window", weight)
    k = g.constant(f"{layer.name}.k", np.full(channels, layer.k, np.float32))
    return g.node("Conv", [squares, weights, k], f"{layer.name}.base", kernel_shape=list(weight.shape[2:]), **window)


def _power(g: Graph, layer: Lrn | SpatialNorm, x: str, base: str, y: str, node: str = "") -> None:
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
    g.node("Div", [x, power], y, node or name)
