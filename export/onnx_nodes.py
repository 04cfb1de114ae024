"""What each ONNX node computes, in the words of :mod:`export.tensors`: one function for each kind of node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.tensors import Graph, Shape, Tensor, Unreadable

MAX_READ = 2**20
"""Elements of the largest constant whose values are read: those of normalisations and shapes are far smaller."""
OUTPUTS = "number of outputs"
"""An attribute that every node has here: how many outputs it names."""
Inputs = Sequence[Tensor | None]
Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """What the reading of a node needs of its file."""

    graph: Graph
    opset: int
    stored: Callable[[onnx.TensorProto], Tensor]


def _x(inputs: Inputs, number: int = 0) -> Tensor:
    tensor = inputs[number]
    if tensor is None:
        raise Unreadable("its inputs must be present. Received: an empty one")
    return tensor


def _given(inputs: Inputs, number: int) -> Tensor | None:
    return inputs[number] if number < len(inputs) else None


def _whole(tensor: Tensor) -> tuple[int, ...]:
    """The whole numbers of a constant."""
    if tensor.array is None or tensor.array.dtype.kind not in "iu" or tensor.array.size > 64:
        raise Unreadable("shapes, axes and pads must be constant whole numbers. Received: what depends on the input")
    return tuple(int(value) for value in tensor.array.reshape(-1))


def _axes(inputs: Inputs, attributes: Attributes, rank: int) -> tuple[int, ...] | None:
    """The axes that a node states by its second input (newer) or by an attribute (older), not negative."""
    stated = _given(inputs, 1)
    axes = _whole(stated) if stated is not None else attributes.get("axes")
    return None if axes is None else tuple(_axis(axis, rank) for axis in axes)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise Unreadable(f"an axis must be one of {rank}. Received: {axis}")
    return axis % rank


def _window(reader: Reading, x: Tensor, kernel: Shape, attributes: Attributes) -> dict[str, Any]:
    """Strides and explicit pads; a last window that `ceil_mode` adds is more padding at the end."""
    rank = len(kernel)
    strides = tuple(attributes.get("strides", (1,) * rank))
    dilations = tuple(attributes.get("dilations", (1,) * rank))
    pads = tuple(attributes.get("pads", (0,) * 2 * rank))
    if not (len(x.shape) == rank + 2 and len(strides) == len(dilations) == rank and len(pads) == 2 * rank):
        raise Unreadable(f"its attributes must be of the rank of its input {x.shape}. Received: {dict(attributes)}")
    if min((*strides, *dilations, *kernel)) < 1 or max((*strides, *dilations, *kernel, *map(abs, pads))) > 2**20:
        raise Unreadable(f"kernels, strides and dilations must be positive. Received: {kernel}, {strides}, {dilations}")
    before, after = list(pads[:rank]), list(pads[rank:])
    auto = attributes.get("auto_pad", "NOTSET")
    for i, (size, window, stride, dilation) in enumerate(zip(x.shape[2:], kernel, strides, dilations)):
        reach = dilation * (window - 1) + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            smaller, larger = total // 2, total - total // 2
            before[i], after[i] = (smaller, larger) if auto == "SAME_UPPER" else (larger, smaller)
        elif auto == "VALID":
            before[i] = after[i] = 0
        if attributes.get("ceil_mode", 0):
            count = -(-(size + before[i] + after[i] - reach) // stride) + 1
            if (count - 1) * stride >= size + before[i]:  # a window that sees padding alone is dropped
                count -= 1
            after[i] = max(after[i], (count - 1) * stride + reach - size - before[i])
    return {"strides": strides, "pads": (tuple(before), tuple(after)), "dilations": dilations}


def _conv(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight = _x(inputs), _x(inputs, 1)
    window = _window(reader, x, weight.shape[2:], attributes)
    return reader.graph.make("conv", *[t for t in inputs if t is not None], groups=attributes.get("group", 1), **window)


def _pool(kind: str) -> Callable[[Reading, Inputs, Attributes], Tensor]:
    def read(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
        x, kernel = _x(inputs), tuple(attributes["kernel_shape"])
        more = {"include_pad": bool(attributes.get("count_include_pad", 0))} if kind == "avg_pool" else {}
        return reader.graph.make(kind, x, kernel=kernel, **_window(reader, x, kernel, attributes), **more)

    return read


def _global(kind: str) -> Callable[[Reading, Inputs, Attributes], Tensor]:
    def read(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
        kernel = _x(inputs).shape[2:]
        return _pool(kind)(reader, inputs, {"kernel_shape": kernel})

    return read


def _gemm(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    graph, bias = reader.graph, _given(inputs, 2)
    one, other = (
        graph.make("transpose", tensor, perm=(1, 0)) if attributes.get(flag, 0) else tensor
        for tensor, flag in ((_x(inputs), "transA"), (_x(inputs, 1), "transB"))
    )
    product = graph.make("matmul", one, other)
    if attributes.get("alpha", 1.0) != 1.0:
        product = graph.make("mul", product, graph.constant(attributes["alpha"]))
    if bias is None:
        return product
    if attributes.get("beta", 1.0) != 1.0:
        bias = graph.make("mul", bias, graph.constant(attributes["beta"]))
    return graph.make("add", product, bias)


def _flatten(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    axis = attributes.get("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return reader.graph.make("reshape", x, shape=(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _reshape(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    stated = _given(inputs, 1)
    shape = list(_whole(stated) if stated is not None else attributes["shape"])
    if not attributes.get("allowzero", 0):
        shape = [x.shape[i] if side == 0 else side for i, side in enumerate(shape)]
    if math.prod(shape) >= 0 and shape and shape[0] > 1 and math.prod(shape) == shape[0] * math.prod(x.shape) > 0:
        shape[0] = 1  # a batch that the exporter wrote down, where the input leaves it open
    return reader.graph.make("reshape", x, shape=tuple(shape))


def _squeeze(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    axes = _axes(inputs, attributes, len(x.shape))
    kept = [s for i, s in enumerate(x.shape) if (i not in axes if axes is not None else s != 1)]
    return reader.graph.make("reshape", x, shape=tuple(kept))


def _unsqueeze(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    stated = _given(inputs, 1)
    axes = _whole(stated) if stated is not None else attributes["axes"]
    rank = len(x.shape) + len(axes)
    shape, new = list(x.shape), sorted(_axis(axis, rank) for axis in axes)
    for axis in new:
        shape.insert(axis, 1)
    return reader.graph.make("reshape", x, shape=tuple(shape))


def _transpose(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    return reader.graph.make("transpose", x, perm=tuple(attributes.get("perm", range(len(x.shape))[::-1])))


def _concat(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    axis = _axis(attributes["axis"], len(_x(inputs).shape))
    return reader.graph.make("concat", *[t for t in inputs if t is not None], axis=axis)


def _split(reader: Reading, inputs: Inputs, attributes: Attributes) -> list[Tensor]:
    x = _x(inputs)
    axis = _axis(attributes.get("axis", 0), len(x.shape))
    stated = _given(inputs, 1)
    sizes = _whole(stated) if stated is not None else attributes.get("split")
    if sizes is None:
        count = attributes.get("num_outputs", attributes[OUTPUTS])
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - i * each) for i in range(count)]
    parts, start = [], 0
    for size in sizes:
        spans = tuple((start, start + size, 1) if i == axis else (0, s, 1) for i, s in enumerate(x.shape))
        parts.append(reader.graph.make("slice", x, spans=spans))
        start += size
    return parts


def _slice(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    if len(inputs) > 1:
        starts, ends = _whole(_x(inputs, 1)), _whole(_x(inputs, 2))
        axes, steps = (_whole(t) if (t := _given(inputs, i)) is not None else None for i in (3, 4))
    else:
        starts, ends, axes, steps = attributes["starts"], attributes["ends"], attributes.get("axes"), None
    cuts = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps or (1,) * len(starts)):
        cuts[_axis(axis, len(x.shape))] = slice(start, end, step)
    spans = [cut.indices(size) for cut, size in zip(cuts, x.shape)]
    if any(step < 1 for _, _, step in spans):
        if x.array is not None:
            return reader.graph.constant(x.array[tuple(cuts)])
        return reader.graph.unknown("Slice backwards", [x], x.shape)
    return reader.graph.make("slice", x, spans=tuple(spans))


def _gather(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, index = _x(inputs), _x(inputs, 1)
    axis = _axis(attributes.get("axis", 0), len(x.shape))
    if (
        index.array is not None
        and index.array.size
        and not -x.shape[axis] <= index.array.min() <= index.array.max() < x.shape[axis]
    ):
        raise Unreadable(
            f"an index must lie within {x.shape[axis]}. Received: {index.array.min()} to {index.array.max()}"
        )
    return reader.graph.make("gather", x, index, axis=axis)


def _pad(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x, rank = _x(inputs), len(_x(inputs).shape)
    mode = attributes.get("mode", "constant")
    stated, value, axes = _given(inputs, 1), _given(inputs, 2), _given(inputs, 3)
    pads = _whole(stated) if stated is not None else attributes["pads"]
    number = value.scalar if value is not None else float(attributes.get("value", 0.0))
    where = [_axis(axis, rank) for axis in _whole(axes)] if axes is not None else list(range(rank))
    if mode != "constant" or number is None or len(pads) != 2 * len(where) or min(pads, default=0) < 0:
        return reader.graph.unknown(f"Pad {mode}", [x])
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(where):
        before[axis], after[axis] = pads[i], pads[i + len(where)]
    if not any(before) and not any(after):
        return x
    return reader.graph.make("pad", x, pads=(tuple(before), tuple(after)), value=number)


def _reduce(kind: str) -> Callable[[Reading, Inputs, Attributes], Tensor]:
    def read(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
        x = _x(inputs)
        axes = _axes(inputs, attributes, len(x.shape))
        found = tuple(range(len(x.shape))) if axes is None else axes
        return reader.graph.make(kind, x, axes=found, keep=bool(attributes.get("keepdims", 1)))

    return read


def _clip(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    low = t.scalar if (t := _given(inputs, 1)) is not None else attributes.get("min")
    high = t.scalar if (t := _given(inputs, 2)) is not None else attributes.get("max")
    if low == 0 and (high is None or high > 1e30):
        return reader.graph.make("relu", _x(inputs))
    return reader.graph.unknown(f"Clip from {low} to {high}", [_x(inputs)])


def _dropout(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    ratio = t.scalar if (t := _given(inputs, 1)) is not None else attributes.get("ratio", 0.5)
    return reader.graph.make("dropout", _x(inputs), rate=float(0.5 if ratio is None else ratio))


def _constant(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    for name, value in attributes.items():
        if name == "value":
            return reader.stored(value)
        if name in ("value_float", "value_floats", "value_int", "value_ints"):
            return reader.graph.constant(np.array(value))
    return reader.graph.weight(())


def _filled(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    shape = _whole(_x(inputs))
    if any(side < 0 for side in shape):
        raise Unreadable(f"a shape must not be negative. Received: {shape}")
    value = numpy_helper.to_array(attributes["value"]).reshape(-1)[0] if "value" in attributes else np.float32(0)
    if math.prod(shape) > MAX_READ:
        return reader.graph.weight(shape)
    return reader.graph.constant(np.full(shape, value))


def _shape(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    shape = _x(inputs).shape[attributes.get("start", 0) : attributes.get("end", None)]
    return reader.graph.constant(np.array(shape, np.int64))


def _cast(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    if x.array is None:
        return x
    whole = attributes["to"] in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    return reader.graph.constant(x.array.astype(np.int64 if whole else np.float64))


def _range(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    start, end, step = (_x(inputs, i).scalar for i in range(3))
    if start is None or end is None or not step or abs((end - start) / step) > MAX_READ:
        raise Unreadable(f"a range must be constant and of at most {MAX_READ} numbers")
    return reader.graph.constant(np.arange(start, end, step).astype(np.int64))


def _negated(reader: Reading, x: Tensor) -> Tensor:
    return reader.graph.make("mul", x, reader.graph.constant(np.array(-1)))


def _chain(op: str) -> Callable[[Reading, Inputs, Attributes], Tensor]:
    """An operation that takes two operands, of any number of them."""

    def read(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
        found = _x(inputs)
        for number in range(1, len(inputs)):
            found = reader.graph.make(op, found, _x(inputs, number))
        return found

    return read


def _plain(op: str) -> Callable[[Reading, Inputs, Attributes], Tensor]:
    return lambda reader, inputs, attributes: reader.graph.make(op, *[t for t in inputs if t is not None])


def _softmax(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _x(inputs)
    axis = _axis(attributes.get("axis", 1 if reader.opset < 13 else -1), len(x.shape))
    return reader.graph.make("softmax", x, axis=axis)


def _lrn(reader: Reading, inputs: Inputs, attributes: Attributes) -> Tensor:
    size = int(attributes["size"])
    if size < 1:
        raise Unreadable(f"its size must be at least 1. Received: {size}")
    stated = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0} | dict(attributes)
    numbers = {name: float(stated[name]) for name in ("alpha", "beta", "bias")}
    return reader.graph.make("lrn", _x(inputs), size=size, **numbers)


NODES: Mapping[str, Callable[[Reading, Inputs, Attributes], Tensor | list[Tensor]]] = {
    "Conv": _conv,
    "MaxPool": _pool("max_pool"),
    "AveragePool": _pool("avg_pool"),
    "GlobalMaxPool": _global("max_pool"),
    "GlobalAveragePool": _global("avg_pool"),
    "LRN": _lrn,
    "Gemm": _gemm,
    "MatMul": _plain("matmul"),
    "Relu": _plain("relu"),
    "Tanh": _plain("tanh"),
    "Clip": _clip,
    "Dropout": _dropout,
    "Softmax": _softmax,
    "Identity": lambda r, i, a: _x(i),
    "Cast": _cast,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Expand": lambda r, i, a: r.graph.make("expand", _x(i), shape=_whole(_x(i, 1))),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Shape": _shape,
    "Range": _range,
    "Add": _chain("add"),
    "Sum": _chain("add"),
    "Mul": _chain("mul"),
    "Max": _chain("max"),
    "Min": _chain("min"),
    "Div": _plain("div"),
    "Pow": _plain("pow"),
    "Sub": lambda r, i, a: r.graph.make("add", _x(i), _negated(r, _x(i, 1))),
    "Neg": lambda r, i, a: _negated(r, _x(i)),
    "Reciprocal": lambda r, i, a: r.graph.make("div", r.graph.constant(1.0), _x(i)),
    "Sqrt": _plain("sqrt"),
    "Exp": _plain("exp"),
    "Log": _plain("log"),
    "Abs": _plain("abs"),
    "Floor": _plain("floor"),
    "Equal": _plain("equal"),
    "Where": _plain("where"),
    "ReduceSum": _reduce("sum"),
    "ReduceMean": _reduce("mean"),
    "ReduceProd": _reduce("product"),
}

__all__ = ["MAX_READ", "NODES", "OUTPUTS", "Attributes", "Inputs", "Reading"]
