"""What each Keras layer computes, in the words of :mod:`export.tensors`: one function for each class.

A class is known by its name and its configuration: this project's own classes state their padding as ``sides``. Layers
over maps act on (N, C, H, W) here, whatever their ``data_format``: they stand between two transpositions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from export.tensors import Graph, Shape, Tensor, Unreadable

Config = Mapping[str, Any]
Arguments = Sequence[Any]
"""Of a call: tensors, lists of tensors, numbers, slices."""
FIRST, LAST = "channels_first", "channels_last"


def tensor_of(arguments: Arguments) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise Unreadable("a layer must be called on a tensor. Received: something else")
    return arguments[0]


def _pair(value: Any, what: str) -> tuple[int, int]:
    sizes = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(sizes) != 2 or not all(isinstance(size, int) and 0 < size < 2**20 for size in sizes):
        raise Unreadable(f"{what} must be one or two positive whole numbers. Received: {str(value)[:60]}")
    return sizes


def whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise Unreadable(f"{what} must be a positive whole number. Received: {str(value)[:60]}")
    return value


def number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unreadable(f"{what} must be a finite number. Received: {str(value)[:60]}")
    return float(value)


def over_maps(graph: Graph, x: Tensor, config: Config, act: Callable[[Tensor], Tensor]) -> Tensor:
    """`act` on the maps of x as (N, C, H, W)."""
    if len(x.shape) != 4:
        raise Unreadable(f"a layer over maps must have an input of four axes. Received: {x.shape}")
    if config.get("data_format", LAST) == FIRST:
        return act(x)
    found = act(graph.make("transpose", x, perm=(0, 3, 1, 2)))
    return graph.make("transpose", found, perm=(0, 2, 3, 1)) if len(found.shape) == 4 else found


def _pads(config: Config, x: Tensor, kernel: Sequence[int], strides: Sequence[int]) -> tuple[Shape, Shape]:
    """Explicit padding (top, left), (bottom, right) of a window over x (N, C, H, W)."""
    sides = config.get("sides")
    if sides is not None:
        try:
            (top, bottom), (left, right) = ((int(a), int(b)) for a, b in sides)
        except (TypeError, ValueError):
            raise Unreadable(f"sides must be ((top, bottom), (left, right)). Received: {str(sides)[:60]}") from None
        return (top, left), (bottom, right)
    padding = config.get("padding", "valid")
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise Unreadable(f"padding must be valid or same. Received: {str(padding)[:60]}")
    totals = [max(0, (-(-size // s) - 1) * s + k - size) for size, k, s in zip(x.shape[2:], kernel, strides)]
    return tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)


def _activated(graph: Graph, x: Tensor, config: Config) -> Tensor:
    """x after the activation that a layer states beside its weights."""
    stated = config.get("activation")
    if isinstance(stated, Mapping):
        stated = stated.get("class_name", stated.get("config"))
    return _activation(graph, x, stated)


def _activation(graph: Graph, x: Tensor, name: Any) -> Tensor:
    word = str(name or "linear").lower()
    if word == "linear":
        return x
    if word in ("relu", "tanh"):
        return graph.make(word, x)
    if word == "softmax":
        return graph.make("softmax", x, axis=len(x.shape) - 1)
    return graph.unknown(f"activation {word[:40]}", [x])


def _conv(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    kernel, strides = _pair(config["kernel_size"], "kernel_size"), _pair(config.get("strides", 1), "strides")
    filters, groups = whole(config["filters"], "filters"), whole(config.get("groups", 1), "groups")

    def act(x: Tensor) -> Tensor:
        weight = graph.weight((filters, x.shape[1] // groups, *kernel))
        bias = [graph.weight((filters,))] if config.get("use_bias", True) else []
        dilations = _pair(config.get("dilation_rate", 1), "dilation_rate")
        pads = _pads(config, x, [d * (k - 1) + 1 for k, d in zip(kernel, dilations)], strides)
        return graph.make("conv", x, weight, *bias, groups=groups, strides=strides, pads=pads, dilations=dilations)

    return _activated(graph, over_maps(graph, tensor_of(arguments), config, act), config)


def _local(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    kernel, strides = _pair(config["kernel_size"], "kernel_size"), _pair(config.get("strides", 1), "strides")
    more = {
        "out_channels": whole(config["filters"], "filters"),
        "groups": whole(config.get("groups", 1), "groups"),
        "bias": bool(config.get("use_bias", True)),
    }

    def act(x: Tensor) -> Tensor:
        return graph.make("local", x, kernel=kernel, strides=strides, pads=_pads(config, x, kernel, strides), **more)

    return _activated(graph, over_maps(graph, tensor_of(arguments), config, act), config)


def _pool(kind: str) -> Callable[[Graph, Arguments, Config], Tensor]:
    def read(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
        kernel = _pair(config.get("pool_size", 2), "pool_size")
        strides = _pair(config.get("strides") or kernel, "strides")
        more = {"include_pad": not config.get("inside", "sides" not in config)} if kind == "avg_pool" else {}

        def act(x: Tensor) -> Tensor:
            pads = _pads(config, x, kernel, strides)
            return graph.make(kind, x, kernel=kernel, strides=strides, pads=pads, **more)

        return over_maps(graph, tensor_of(arguments), config, act)

    return read


def _global(kind: str) -> Callable[[Graph, Arguments, Config], Tensor]:
    def read(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
        more = {"include_pad": False} if kind == "avg_pool" else {}

        def act(x: Tensor) -> Tensor:
            pooled = graph.make(kind, x, kernel=x.shape[2:], strides=(1, 1), pads=((0, 0), (0, 0)), **more)
            return pooled if config.get("keepdims") else graph.make("reshape", pooled, shape=x.shape[:2])

        return over_maps(graph, tensor_of(arguments), config, act)

    return read


def _dense(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x, units, groups = tensor_of(arguments), whole(config["units"], "units"), whole(config.get("groups", 1), "groups")
    if len(x.shape) != 2:
        return graph.unknown("Dense over maps", [x], (*x.shape[:-1], units))
    each = x.shape[1] // groups
    spans = [((0, x.shape[0], 1), (i * each, (i + 1) * each, 1)) for i in range(groups)]
    weight = graph.weight((each, units // groups))
    parts = [graph.make("matmul", graph.make("slice", x, spans=span), weight) for span in spans]
    found = parts[0] if groups == 1 else graph.make("concat", *parts, axis=1)
    if config.get("use_bias", True):
        found = graph.make("add", found, graph.weight((units,)))
    return _activated(graph, found, config)


def _norm(kind: str, *keys: str) -> Callable[[Graph, Arguments, Config], Tensor]:
    """This project's normalisations, which state what they compute."""

    def read(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
        facts = {key: config[key] for key in keys} | {
            key: number(config[key], key) for key in ("coefficient", "beta", "k")
        }
        return over_maps(graph, tensor_of(arguments), config, lambda x: graph.make("norm", x, kind=kind, **facts))

    return read


def _dropout(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    rate = number(config.get("rate", 0.0), "rate")
    return graph.make("dropout", tensor_of(arguments), rate=rate, scale=str(config.get("scale", "train")))


def _flatten(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    """Keras' own flattens channels last, also where they come first."""
    x = tensor_of(arguments)
    if config.get("data_format", LAST) == FIRST and len(x.shape) == 4:
        x = graph.make("transpose", x, perm=(0, 2, 3, 1))
    return graph.make("reshape", x, shape=(x.shape[0], math.prod(x.shape[1:])))


def _flatten_channels(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x = graph.make("transpose", tensor_of(arguments), perm=(0, 3, 1, 2))
    return graph.make("reshape", x, shape=(x.shape[0], math.prod(x.shape[1:])))


def _zero_padding(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    padding = config.get("padding", 1)
    rows = [padding, padding] if isinstance(padding, int) else list(padding)
    sides = [(side, side) if isinstance(side, int) else tuple(side) for side in rows]
    flat = [size for side in sides for size in side]
    if [len(side) for side in sides] != [2, 2] or not all(isinstance(s, int) and 0 <= s < 2**20 for s in flat):
        raise Unreadable(f"padding must be whole numbers for rows and columns. Received: {str(padding)[:60]}")
    (top, bottom), (left, right) = sides

    def act(x: Tensor) -> Tensor:
        return graph.make("pad", x, pads=((0, 0, top, left), (0, 0, bottom, right)), value=0.0)

    return over_maps(graph, tensor_of(arguments), config, act)


def _tensors(arguments: Arguments) -> list[Tensor]:
    found = arguments[0] if arguments and isinstance(arguments[0], list) else list(arguments)
    if not found or not all(isinstance(item, Tensor) for item in found):
        raise Unreadable("a layer that joins must be called on tensors. Received: something else")
    return list(found)


def _concatenate(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    tensors = _tensors(arguments)
    axis, rank = config.get("axis", -1), len(tensors[0].shape)
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise Unreadable(f"an axis must be one of {rank}. Received: {str(axis)[:60]}")
    return graph.make("concat", *tensors, axis=axis % rank)


def _relu(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    plain = not config.get("negative_slope") and not config.get("threshold") and config.get("max_value") is None
    x = tensor_of(arguments)
    return graph.make("relu", x) if plain else graph.unknown("ReLU with a slope or a bound", [x])


def _tanh(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    slope, amplitude = number(config.get("slope", 1.0), "slope"), number(config.get("amplitude", 1.0), "amplitude")
    x = tensor_of(arguments) if slope == 1 else graph.make("mul", tensor_of(arguments), graph.constant(slope))
    found = graph.make("tanh", x)
    return found if amplitude == 1 else graph.make("mul", found, graph.constant(amplitude))


def _rescaling(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x = graph.make("mul", tensor_of(arguments), graph.constant(config.get("scale", 1.0)))
    return graph.make("add", x, graph.constant(config.get("offset", 0.0)))


def _reshape(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x, shape = tensor_of(arguments), config["target_shape"]
    return graph.make("reshape", x, shape=(x.shape[0], *(int(side) for side in shape)))


def _permute(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    return graph.make("transpose", tensor_of(arguments), perm=(0, *(int(axis) for axis in config["dims"])))


max_pool, average_pool = _pool("max_pool"), _pool("avg_pool")
LAYERS: Mapping[str, Callable[[Graph, Arguments, Config], Tensor | list[Tensor]]] = {
    "Conv2D": _conv,
    "LocallyConnected2D": _local,
    "MaxPooling2D": max_pool,
    "AveragePooling2D": average_pool,
    "GlobalMaxPooling2D": _global("max_pool"),
    "GlobalAveragePooling2D": _global("avg_pool"),
    "Dense": _dense,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "ZeroPadding2D": _zero_padding,
    "Concatenate": _concatenate,
    "Activation": lambda graph, arguments, config: _activated(graph, tensor_of(arguments), config),
    "ReLU": _relu,
    "Relu": _relu,
    "Tanh": _tanh,
    "Softmax": lambda graph, arguments, config: _activation(graph, tensor_of(arguments), "softmax"),
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Permute": _permute,
    "Identity": lambda graph, arguments, config: tensor_of(arguments),
}
"""Keras' own, by class name."""

PACKAGE = "alexnet"
OWN: Mapping[str, Callable[[Graph, Arguments, Config], Tensor | list[Tensor]]] = {
    **{name: LAYERS[name] for name in ("Conv2D", "LocallyConnected2D", "MaxPooling2D", "AveragePooling2D", "Dense")},
    "Dropout": _dropout,
    "LocalResponseNormalization": _norm("lrn", "before", "after", "groups"),
    "SpatialNormalization": _norm("spatial_norm", "size"),
    "FlattenChannels": _flatten_channels,
    "ScaledTanh": _tanh,
}
"""Those that ``backends.keras`` registers under :data:`PACKAGE`."""

__all__ = [
    "LAYERS",
    "OWN",
    "PACKAGE",
    "Arguments",
    "Config",
    "average_pool",
    "max_pool",
    "number",
    "over_maps",
    "tensor_of",
    "whole",
]
