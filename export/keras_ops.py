"""What operations of ``keras.ops`` compute, as functional models keep them, and TensorFlow functions of Keras 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from export.keras_layers import Arguments, Config, average_pool, max_pool, number, over_maps, tensor_of, whole
from export.tensors import Graph, Tensor, Unreadable


def _operand(graph: Graph, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        raise Unreadable(f"an operand must be a tensor or a number. Received: {str(value)[:60]}")
    return graph.constant(value)


def _op(name: str, count: int) -> Callable[[Graph, Arguments, Config], Tensor]:
    def read(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
        return graph.make(name, *(_operand(graph, value) for value in arguments[:count]))

    return read


def _subtract(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    one, other = (_operand(graph, value) for value in arguments[:2])
    return graph.make("add", one, graph.make("mul", other, graph.constant(-1.0)))


def _rsqrt(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    return graph.make("div", graph.constant(1.0), graph.make("sqrt", tensor_of(arguments)))


def _square(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    return graph.make("mul", tensor_of(arguments), tensor_of(arguments))


def _split(graph: Graph, arguments: Arguments, config: Config) -> list[Tensor]:
    x = tensor_of(arguments)
    axis = int(config.get("axis", 0)) % len(x.shape)
    stated = config.get("indices_or_sections", 2)
    size = x.shape[axis]
    if isinstance(stated, int):
        count = whole(stated, "indices_or_sections")
        edges = [i * size // count for i in range(count + 1)]
    else:
        edges = [0, *(int(edge) for edge in stated), size]
    full = [(0, side, 1) for side in x.shape]
    spans = [(*full[:axis], (a, b, 1), *full[axis + 1 :]) for a, b in pairwise(edges)]
    return [graph.make("slice", x, spans=span) for span in spans]


def _get_item(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x, index = tensor_of(arguments), arguments[1]
    items = list(index) if isinstance(index, list | tuple) else [index]
    if items.count(...) == 1:
        at = items.index(...)
        items[at : at + 1] = [slice(None)] * (len(x.shape) - len(items) + 1)
    if len(items) > len(x.shape) or not all(isinstance(item, slice) for item in items):
        return graph.unknown("indexing", [x])
    spans = [item.indices(size) for item, size in zip((*items, *[slice(None)] * len(x.shape)), x.shape)]
    if any(step < 1 for _, _, step in spans):
        return graph.unknown("indexing backwards", [x])
    return graph.make("slice", x, spans=tuple(spans))


def _pad(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x, sides, options = tensor_of(arguments), config["pad_width"], config.get("constant_values")
    flat = [size for side in sides for size in side]
    fits = len(flat) == 2 * len(x.shape) and all(isinstance(size, int) and 0 <= size < 2**20 for size in flat)
    if config.get("mode", "constant") != "constant" or not fits:
        return graph.unknown("Pad", [x])
    pads = tuple(side[0] for side in sides), tuple(side[1] for side in sides)
    return graph.make("pad", x, pads=pads, value=0.0 if options is None else number(options, "constant_values"))


def _reduce(op: str) -> Callable[[Graph, Arguments, Config], Tensor]:
    def read(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
        x, axis = tensor_of(arguments), config.get("axis")
        axes = range(len(x.shape)) if axis is None else axis if isinstance(axis, list) else [axis]
        found = tuple(int(item) % len(x.shape) for item in axes)
        return graph.make(op, x, axes=found, keep=bool(config.get("keepdims", False)))

    return read


def _reshape(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x, shape = tensor_of(arguments), [int(side) for side in config["newshape"]]
    return graph.make("reshape", x, shape=tuple(x.shape[:1] if shape[:1] == [-1] else shape[:1]) + tuple(shape[1:]))


def _transpose(graph: Graph, arguments: Arguments, config: Config) -> Tensor:
    x = tensor_of(arguments)
    axes = config.get("axes") or range(len(x.shape))[::-1]
    return graph.make("transpose", x, perm=tuple(int(axis) % len(x.shape) for axis in axes))


def _joined(graph: Graph, op: str, arguments: Arguments) -> Tensor:
    """A layer called on a list of tensors, or an operation on two operands."""
    operands = arguments[0] if arguments and isinstance(arguments[0], list) else arguments
    found = _operand(graph, operands[0])
    for value in operands[1:]:
        found = graph.make(op, found, _operand(graph, value))
    return found


OPERATIONS: Mapping[str, Callable[[Graph, Arguments, Config], Tensor | list[Tensor]]] = {
    "Multiply": lambda graph, arguments, config: _joined(graph, "mul", arguments),
    "Add": lambda graph, arguments, config: _joined(graph, "add", arguments),
    "Subtract": _subtract,
    "Divide": _op("div", 2),
    "TrueDivide": _op("div", 2),
    "Power": _op("pow", 2),
    "Square": _square,
    "Sqrt": _op("sqrt", 1),
    "Rsqrt": _rsqrt,
    "Exp": _op("exp", 1),
    "Log": _op("log", 1),
    "Absolute": _op("abs", 1),
    "Split": _split,
    "GetItem": _get_item,
    "Maximum": _op("max", 2),
    "Minimum": _op("min", 2),
    "Pad": _pad,
    "Sum": _reduce("sum"),
    "Mean": _reduce("mean"),
    "Reshape": _reshape,
    "Transpose": _transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
}
"""By class name. Layers and operations may share one: an operation is kept with keras.ops as its module."""


def _tf_lrn(graph: Graph, x: Tensor, options: Config) -> Tensor:
    """TensorFlow's: alpha is not divided, the window reaches depth_radius to both sides; channels last."""
    radius = int(options.get("depth_radius", options.get("radius", 5)))
    facts = {
        "before": radius,
        "after": radius,
        "coefficient": number(options.get("alpha", 1.0), "alpha"),
        "beta": number(options.get("beta", 0.5), "beta"),
        "k": number(options.get("bias", 1.0), "bias"),
        "groups": 1,
    }
    return over_maps(graph, x, {}, lambda maps: graph.make("norm", maps, kind="lrn", **facts))


TF_LRN = ("local_response_normalization", "lrn", "LRN")
"""How TensorFlow's normalisation is called in Keras 2 models, as a function of ``tf.nn``."""


def tf_function(graph: Graph, arguments: Arguments, config: Config, options: Config) -> Tensor:
    """A TensorFlow function that a Keras 2 model calls as a layer (``TFOpLambda``)."""
    word = str(config.get("function", "")).rpartition(".")[2]
    x = tensor_of(arguments)
    if word in TF_LRN:
        return _tf_lrn(graph, x, options)
    if word in ("relu", "tanh"):
        return graph.make(word, x)
    return graph.unknown(f"TensorFlow function {word[:40]}", [x])


__all__ = ["OPERATIONS", "tf_function"]
